"""Convolutions and dense layers in int8, see `recipe/quantise.py`.

Shapes: B batch, C channels, H height, W width, F features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jax_impl.layers import Conv, Dense
from jax_impl.weights import canonical_name
from recipe.quantise import LARGEST, Int8Layer


def to_int8(x: Float[Array, "..."], layer: Int8Layer) -> Int[Array, "..."]:
    """A layer's input as integers, of two equally near the even one."""
    # XLA would multiply by the reciprocal of a constant, another rounding than torch's;
    # behind a barrier it sees none.
    scale = jax.lax.optimization_barrier(jnp.asarray(layer.input_scale))
    return jnp.round(x / scale).clip(-LARGEST, LARGEST).astype(jnp.int8)


def conv_sums(
    x_BHWC: Int[Array, "B H W C"], layer: Int8Layer, stride: int, padding: int
) -> Int[Array, "B h w c"]:
    """The convolution of integers, with the bias, in int32."""
    sums = jax.lax.conv_general_dilated(
        *(
            x_BHWC,
            jnp.asarray(layer.kernel),
            (stride, stride),
            [(padding, padding)] * 2,
        ),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.int32,
    )
    return sums if layer.bias is None else sums + layer.bias[None, None, None]


def dense_sums(x: Int[Array, "*B F"], layer: Int8Layer) -> Int[Array, "*B f"]:
    """The product of integers, with the bias, in int32."""
    kernel = jnp.asarray(layer.kernel)
    sums = jnp.matmul(x, kernel, preferred_element_type=jnp.int32)
    return sums if layer.bias is None else sums + layer.bias[(None,) * (x.ndim - 1)]


def largest_inputs(model: nnx.Module, images: Array) -> dict[str, float]:
    """Canonical layer -> largest magnitude of its input, for these images.

    Of every convolution and dense layer, in the order of their first call.
    """
    found: dict[str, float] = {}

    def watch(name: str, kind: type) -> Callable[..., Array]:
        def call(self: Any, x: Array) -> Array:
            found[name] = max(found.get(name, 0.0), float(jnp.abs(x).max()))
            return kind.__call__(self, x)

        return call

    layers = _layers(model)
    kinds = {name: type(layer) for name, layer in layers.items()}
    for name, layer in layers.items():
        _call_instead(layer, watch(name, kinds[name]))
    model(images)
    for name, layer in layers.items():
        layer.__class__ = kinds[name]
    return found


def use_int8(model: nnx.Module, layers: Mapping[str, Int8Layer]) -> None:
    """Have these layers of the model compute in int8, from fp32 to fp32."""

    def quantised(layer: Int8Layer, module: Any) -> Callable[..., Array]:
        def scaled(sums: Array) -> Array:
            scale = layer.scale[(None,) * (sums.ndim - 1)]
            return sums.astype(jnp.float32) * scale

        def conv(self: Any, x: Array) -> Array:
            given = layer, module.strides, module.padding
            return scaled(conv_sums(to_int8(x, layer), *given))

        def dense(self: Any, x: Array) -> Array:
            return scaled(dense_sums(to_int8(x, layer), layer))

        return conv if isinstance(module, Conv) else dense

    held = _layers(model)
    for name, layer in layers.items():
        _call_instead(held[name], quantised(layer, held[name]))


def _layers(model: nnx.Module) -> dict[str, Any]:
    return {
        canonical_name(path): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Conv | Dense)
    }


def _call_instead(module: nnx.Module, call: Callable[..., Array]) -> None:
    """Python looks up `__call__` on the class, so the module gets its own class."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"__call__": call})
