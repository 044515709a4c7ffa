"""Frozen layers, `train.freeze`: no gradients, and running statistics in training."""

from typing import Any

from flax import nnx

from jax_impl.weights import canonical_name
from recipe.config import Config
from recipe.prefixes import is_frozen


def split_frozen(config: Config, params: nnx.State) -> tuple[nnx.State, nnx.State]:
    """The parameters that training moves, and the frozen ones.

    Only the former are differentiated. In torch a parameter itself tells.
    """

    def is_trained(path: tuple[Any, ...], leaf: Any) -> bool:
        return not is_frozen(config, canonical_name(path, leaf))

    trained, frozen = nnx.split_state(params, is_trained, ...)
    return trained, frozen


def train_mode(config: Config, model: nnx.Module) -> None:
    """Training mode, except for frozen norms: these use running statistics."""
    model.train()
    for path, layer in nnx.iter_modules(model) if config.train.freeze else ():
        normalises = hasattr(layer, "use_running_average")
        if normalises and is_frozen(config, canonical_name(path)):
            layer.set_attributes(use_running_average=True)
