"""On a CPU the JAX twin has gradients of kernels, and a GELU, of its own form."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_impl import layers as jax_layers
from jax_impl.layers import convolve
from jax_impl.precision import Dtypes

# examples, pixels across, channels before and after, kernel, stride, padding
SHAPES = [
    (5, 28, 1, 10, 5, 1, 0),
    (7, 28, 1, 32, 3, 1, 1),
    (4, 32, 3, 8, 3, 2, 1),
    (3, 33, 3, 64, 7, 2, 3),
    (4, 15, 6, 8, 1, 2, 0),
    (4, 8, 6, 8, 1, 1, 0),
    (4, 32, 3, 24, 4, 4, 0),
    (40, 12, 10, 20, 5, 1, 0),
    (19, 17, 16, 16, 3, 1, 1),
    (64, 32, 4, 4, 3, 1, 1),
    (1, 9, 2, 3, 3, 1, 1),
]


def given(shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
    examples, pixels, before, after, size, stride, padding = shape
    generator = np.random.default_rng(0)
    x = generator.normal(size=(examples, pixels, pixels, before)).astype(dtype)
    kernel = generator.normal(size=(size, size, before, after)).astype(dtype)
    return x, kernel, stride, padding


def library(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        *(x, kernel, (stride, stride), [(padding, padding)] * 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def with_gradients(convolution, x, kernel, stride, padding):
    """The outputs, and the gradients of a sum of them under random weights."""
    form = partial(convolution, stride=stride, padding=padding)
    weights = np.random.default_rng(1).normal(
        size=jax.eval_shape(form, x, kernel).shape
    )

    @jax.jit
    def three(x, kernel):
        out, back = jax.vjp(lambda x, kernel: form(x, kernel), x, kernel)
        return out, *back(jnp.asarray(weights, out.dtype))

    return three(x, kernel)


def by_position(x, kernel, stride, padding):
    return convolve(x, kernel, stride, padding)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_convolution_and_its_gradients_are_the_librarys(shape):
    mine = with_gradients(by_position, *given(shape))
    theirs = with_gradients(library, *given(shape))
    for found, right in zip(mine, theirs, strict=True):
        scale = np.abs(right).max()
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_sums_of_16_bits_are_kept_in_32_and_given_back_in_16(shape, dtype):
    x, kernel, *form = given(shape, dtype)
    exact = with_gradients(library, x.astype(float), kernel.astype(float), *form)
    found = with_gradients(by_position, x, kernel, *form)
    for mine, right in zip(found, exact, strict=True):
        assert mine.dtype == dtype
        error = np.abs(np.asarray(mine, float) - right).max()
        # The weights of the sum are also rounded.
        assert error <= 2 * jnp.finfo(dtype).eps * np.abs(right).max()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_elsewhere_than_on_a_cpu_a_convolution_is_the_librarys(platform):
    def lowered(convolution):
        def three(x, kernel):
            out, back = jax.vjp(lambda *sides: convolution(*sides, 1, 0), x, kernel)
            return out, *back(out)

        # The call's own functions have names that differ.
        traced = jax.jit(three).trace(*given(SHAPES[-2], np.float32)[:2])
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        words = ["convolution", "add", "slice"]
        return {word: text.count(f"stablehlo.{word}") for word in words}

    same = lowered(by_position) == lowered(library)
    assert same == (platform != "cpu")


def test_gelu_and_its_slope_are_pytorchs():
    x: Any = np.concatenate([np.linspace(-12, 12, 100_001), [0.0, -40.0, 40.0]])
    tensor = torch.tensor(x, requires_grad=True)
    right = torch.nn.functional.gelu(tensor)
    right.sum().backward()
    assert tensor.grad is not None
    value, slope = (
        f(x) for f in (jax_layers.gelu, jax.vmap(jax.grad(jax_layers.gelu)))
    )
    np.testing.assert_allclose(value, right.detach(), rtol=0, atol=1e-15 * 12)
    np.testing.assert_allclose(slope, tensor.grad, rtol=0, atol=4e-15)


@pytest.mark.parametrize(
    "changed",
    [{"padding": "SAME"}, {"kernel_dilation": 2}, {"padding": ((0, 1), (1, 0))}],
    ids=str,
)
def test_a_layer_that_was_changed_into_another_is_that_other(changed):
    layer = jax_layers.Conv(
        2, 3, 3, Dtypes(np.dtype(float), np.dtype(float)), padding=1
    )
    x, kernel, *_ = given((2, 8, 2, 3, 3, 1, 1))
    layer.kernel[...] = jnp.asarray(kernel)
    plain = nnx.Conv(
        *(2, 3, (3, 3)),
        **{"padding": 1, **changed},
        use_bias=False,
        param_dtype=float,
        rngs=nnx.Rngs(0),
    )
    plain.kernel[...] = jnp.asarray(kernel)
    for name, value in changed.items():
        setattr(layer, name, value)
    np.testing.assert_allclose(layer(x), plain(x), rtol=0, atol=1e-13)
