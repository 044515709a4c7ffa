"""Canonical weights <-> parameters; Flax's layouts are already canonical."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from jax_impl.parallel import World, to_host, unshard
from recipe.weights import Weights, check_leaves


def canonical_name(path: tuple[Any, ...]) -> str:
    """Flax's path ("dense", 0, "kernel") is the canonical `dense.0.kernel`.

    The cell of an `nnx.RNN` is named like the RNN, as torch's `nn.GRU` is both.
    """
    parts = [str(part) for part in path]
    kept = [
        part
        for part, after in zip(parts, parts[1:] + [""], strict=False)
        if part != "cell" or after not in ("dense_i", "dense_h")
    ]
    return ".".join(kept)


def leaf_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Canonical name -> canonical shape of the model's leaves."""
    leaves = nnx.to_flat_state(nnx.state(model))
    return {canonical_name(path): v.get_value().shape for path, v in leaves}


def load_weights(
    model: nnx.Module, weights: Weights
) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The model as a static graph, its parameters and its running statistics.

    Both have the canonical values.

    Raises:
      ConfigError: if the model has other leaves than `weights`.
    """
    check_leaves(leaf_shapes(model), weights)
    graphdef, state = nnx.split(model)
    leaves = nnx.to_flat_state(state)
    filled = nnx.from_flat_state(
        [(p, variable.replace(weights[canonical_name(p)])) for p, variable in leaves]
    )
    params, statistics = nnx.split_state(filled, nnx.Param, nnx.BatchStat)
    return graphdef, params, statistics


def save_weights(params: nnx.State, statistics: nnx.State, world: World) -> Weights:
    """The parameters and statistics as canonical NumPy arrays."""
    return {
        canonical_name(path): save_array(variable.get_value(), world)
        for state in (params, statistics)
        for path, variable in nnx.to_flat_state(state)
    }


def save_array(array: jax.Array, world: World) -> np.ndarray:
    """The twin's array as a NumPy array. Collective."""
    return to_host([unshard(array, world)], world)[0]
