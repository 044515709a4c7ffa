"""Convolutions and dense layers in int8, see `recipe/quantise.py`.

Shapes: B batch, C channels, H height, W width, F features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from recipe.quantise import LARGEST, Int8Layer
from torch_impl.layers import Conv, Dense
from torch_impl.weights import canonical_names


def to_int8(x: Float[Tensor, "..."], layer: Int8Layer) -> Int[Tensor, "..."]:
    """A layer's input as integers, of two equally near the even one."""
    scaled = (x / float(layer.input_scale)).round()
    return scaled.clamp(-LARGEST, LARGEST).to(torch.int8)


def conv_sums(
    x_BCHW: Int[Tensor, "B C H W"], layer: Int8Layer, stride: int, padding: int
) -> Int[Tensor, "B c h w"]:
    """The convolution of integers, with the bias, in int32.

    On a CPU torch has none: in fp64 the same sums are exact, in whatever order.
    """
    kernel = torch.tensor(layer.kernel).permute(3, 2, 0, 1)
    sums = F.conv2d(x_BCHW.double(), kernel.double(), None, stride, padding)
    sums = sums.to(torch.int32)
    if layer.bias is None:
        return sums
    return sums + torch.tensor(layer.bias)[:, None, None]


def dense_sums(x: Int[Tensor, "*B F"], layer: Int8Layer) -> Int[Tensor, "*B f"]:
    """The product of integers, with the bias, in int32."""
    sums = x.to(torch.int32) @ torch.tensor(layer.kernel).to(torch.int32)
    return sums if layer.bias is None else sums + torch.tensor(layer.bias)


def largest_inputs(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Canonical layer -> largest magnitude of its input, for these images.

    Of every convolution and dense layer, in the order of their first call.
    """
    found: dict[str, float] = {}

    def watch(name: str, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        forward = layer.forward

        def call(x: Tensor) -> Tensor:
            found[name] = max(found.get(name, 0.0), float(x.abs().max()))
            return forward(x)

        return call

    layers = _layers(model)
    for name, layer in layers.items():
        layer.forward = watch(name, layer)
    with torch.no_grad():
        model(images)
    for layer in layers.values():
        del layer.forward
    return found


def use_int8(model: nn.Module, layers: Mapping[str, Int8Layer]) -> None:
    """Have these layers of the model compute in int8, from fp32 to fp32."""

    def quantised(layer: Int8Layer, module: Any) -> Callable[[Tensor], Tensor]:
        scale = torch.tensor(layer.scale)

        def conv(x: Tensor) -> Tensor:
            given = layer, module.stride[0], module.padding[0]
            return conv_sums(to_int8(x, layer), *given) * scale[:, None, None]

        def dense(x: Tensor) -> Tensor:
            return dense_sums(to_int8(x, layer), layer) * scale

        return conv if isinstance(module, Conv) else dense

    held = _layers(model)
    for name, layer in layers.items():
        held[name].forward = quantised(layer, held[name])


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    names = canonical_names(model)
    return {
        names[f"{path}.weight"].rpartition(".")[0]: module
        for path, module in model.named_modules()
        if isinstance(module, Conv | Dense)
    }
