"""Dropout of a custom model: its nn.Dropout, with the same masks as JAX's twin.

Shapes: B batch, L layers with dropout.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recipe.config import Config
from recipe.dropout import check_call, check_rate, dropout_layers
from recipe.errors import ConfigError
from torch_impl.layers import drop, words
from torch_impl.precision import parameter_dtype

OFF = "leave it to model.eval(), and call no .train() on it in the forward pass"


class AxisDropout(nn.Dropout):
    """nn.Dropout for inputs with another layout than a batch of images.

    Units are counted in JAX's order of axes. For nn.Dropout, four axes are NCHW here
    and NHWC there, and any others the same in both.

    Args:
      channels: the axis that is last in JAX's twin; -1 if axes are the same.
    """

    def __init__(self, p: float, channels: int):
        super().__init__(p)
        self.channels = channels


class KeyedDropout(nn.Dropout):
    """A custom model's dropout, with masks from the examples' keys.

    Every call in a forward pass has its own mask; evaluation drops nothing. Kept units
    are scaled as in `layers.Dropout`.
    """

    name: str
    kind: str  # its class's, as the user has it
    layer: int  # the column of its keys
    dtype: torch.dtype  # of the scaling
    channels: int | None = None
    keys_BL: Int[Tensor, "B L"] | None = None
    evaluates: bool = False  # this forward pass, which has no keys
    calls: int = 0  # of this forward pass so far

    def forward(self, input: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        if not self.p or not self.training:
            return input
        keys_BL = self.keys_BL
        examples = None if keys_BL is None else len(keys_BL)
        name = f"torch_model.py: {self.name}"
        check_call(name, len(input), examples, self.evaluates, OFF)
        assert keys_BL is not None
        keys_B = keys_BL[:, self.layer]
        if self.calls:
            call = torch.full((1,), self.calls, device=keys_B.device)
            keys_B = words(keys_B, call)[:, 0]
        self.calls += 1
        axis = self.last_in_jax(input)
        dropped = drop(input.movedim(axis, -1), keys_B, self.p, self.dtype)
        return dropped.movedim(-1, axis)

    def last_in_jax(self, tensor: Tensor) -> int:
        """The input's axis that is last in JAX's twin."""
        if self.channels is not None:
            return self.channels
        return 1 if tensor.ndim == 4 else -1


def key_dropout(config: Config, model: nn.Module) -> None:
    """Replace the dropout of a custom model by Duet's, in place.

    The model then takes the examples' keys after the images; without them, in
    evaluation, nothing is dropped. A layer with two names has the alphabetically first.

    Raises:
      ConfigError: if a layer is of another kind, or its rate is invalid.
    """
    listed = dropout_layers(config)
    found: dict[nn.Module, list[str]] = {}
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            found.setdefault(layer, []).append(name)
    for layer, names in found.items():
        name = min(names)
        if type(layer) not in (nn.Dropout, AxisDropout):
            raise ConfigError(
                f"torch_model.py: {name} is of {type(layer).__name__}; only nn.Dropout "
                f"and AxisDropout of torch_impl/own_dropout.py are supported"
            )
        assert isinstance(layer, nn.Dropout)
        check_rate(name, layer.p)
        kind, layer.__class__ = type(layer).__name__, KeyedDropout
        assert isinstance(layer, KeyedDropout)
        layer.kind = kind
        layer.name, layer.dtype = name, parameter_dtype(config)
        layer.layer = listed.index(name) if name in listed else -1
    if found:
        model.register_forward_pre_hook(_take_keys)
        model.register_forward_hook(_leave_keys)


def held_rates(model: nn.Module) -> dict[str, float]:
    """Name -> rate of the model's dropout layers."""
    return {layer.name: layer.p for layer in _layers(model)}


def _layers(model: nn.Module) -> list[KeyedDropout]:
    return [layer for layer in model.modules() if isinstance(layer, KeyedDropout)]


def _take_keys(model: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Pass the keys to the layers, and only the images to the model."""
    images, *keys = given
    for layer in _layers(model):
        layer.keys_BL, layer.calls = (keys[0] if keys else None), 0
        layer.evaluates = not keys
    return (images,)


def _leave_keys(model: nn.Module, given: Any, output: Any) -> None:
    """Remove the keys of this forward pass."""
    for layer in _layers(model):
        layer.keys_BL, layer.calls, layer.evaluates = None, 0, False
