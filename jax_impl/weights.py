"""Canonical weights <-> parameters; Flax's layouts are already canonical."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from jax_impl.parallel import World, to_host, unshard
from recipe.errors import ConfigError
from recipe.weights import Weights, check_leaves, is_trained

# Metadata of a cell's leaf, since its own path contains the cell.
_NAME = "canonical_name"


def canonical_name(path: tuple[Any, ...], leaf: nnx.Variable | None = None) -> str:
    """Flax's path ("dense", 0, "kernel") is the canonical `dense.0.kernel`.

    Args:
      leaf: the variable there; one of an `nnx.RNN`'s cell has its name as metadata.
    """
    told = None if leaf is None else leaf.get_metadata().get(_NAME)
    return told or ".".join(map(str, path))


def leaf_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Canonical name -> canonical shape of the model's leaves."""
    _name_cells(model)
    leaves = nnx.to_flat_state(nnx.state(model))
    return {canonical_name(path, v): v.get_value().shape for path, v in leaves}


def trained_leaves(model: nnx.Module) -> dict[str, bool]:
    """Canonical name -> whether training moves it, of all that the model holds.

    Raises:
      ConfigError: for running statistics of a kind that a step would not return.
    """
    _name_cells(model)
    leaves = nnx.to_flat_state(nnx.state(model))
    for path, leaf in leaves:
        name = canonical_name(path, leaf)
        if not is_trained(name) and not isinstance(leaf, nnx.Param | nnx.BatchStat):
            raise ConfigError(
                f"jax_model.py: {name} is an nnx.{type(leaf).__name__}; running "
                "statistics are nnx.BatchStat: make it one, or name it otherwise"
            )
    return {canonical_name(path, v): isinstance(v, nnx.Param) for path, v in leaves}


def _name_cells(model: nnx.Module) -> None:
    """Give the cell that an `nnx.RNN` holds the name of that, as `nn.GRU` is both."""
    for path, module in nnx.iter_modules(model):
        if not isinstance(module, nnx.RNN):
            continue
        for inner, leaf in nnx.iter_graph(module.cell):
            if isinstance(leaf, nnx.Variable) and inner[0] in ("dense_i", "dense_h"):
                name = canonical_name((*path, *inner))
                first = min(name, leaf.get_metadata().get(_NAME, name))
                leaf.set_metadata(**{_NAME: first})


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
        [(p, v.replace(weights[canonical_name(p, v)])) for p, v in leaves]
    )
    params, statistics = nnx.split_state(filled, nnx.Param, nnx.BatchStat)
    return graphdef, params, statistics


def save_weights(params: nnx.State, statistics: nnx.State, world: World) -> Weights:
    """The parameters and statistics as canonical NumPy arrays."""
    return {
        canonical_name(path, variable): save_array(variable.get_value(), world)
        for state in (params, statistics)
        for path, variable in nnx.to_flat_state(state)
    }


def save_array(array: jax.Array, world: World) -> np.ndarray:
    """The twin's array as a NumPy array. Collective."""
    return to_host([unshard(array, world)], world)[0, ...]
