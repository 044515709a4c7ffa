"""Canonical weights <-> parameters; Flax's layouts are the canonical ones already."""

from typing import Any

from flax import nnx

from jax_impl.parallel import World, to_host, unshard
from recipe.weights import Weights


def canonical_name(path: tuple[Any, ...]) -> str:
    """Flax's path ("dense", 0, "kernel") is the canonical `dense.0.kernel`."""
    return ".".join(str(part) for part in path)


def load_weights(
    model: nnx.Module, weights: Weights
) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The model as a static graph, its parameters and its running statistics.

    Both hold the canonical numbers.
    """
    graphdef, state = nnx.split(model)
    filled = nnx.from_flat_state(
        [
            (path, variable.replace(weights[canonical_name(path)]))
            for path, variable in nnx.to_flat_state(state)
        ]
    )
    params, statistics = nnx.split_state(filled, nnx.Param, nnx.BatchStat)
    return graphdef, params, statistics


def save_weights(params: nnx.State, statistics: nnx.State, world: World) -> Weights:
    """The parameters and statistics as canonical NumPy arrays."""
    return {
        canonical_name(path): to_host([unshard(variable.get_value(), world)], world)[0]
        for state in (params, statistics)
        for path, variable in nnx.to_flat_state(state)
    }
