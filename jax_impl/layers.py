"""Layers whose conventions differ between frameworks, written out.

Parameters are stored in one dtype and computed with in another: `precision.Dtypes`. The
`nnx.Rngs` that Flax requires are never used: models are built by `nnx.eval_shape`.

Shapes: B batch, C channels, H height, W width, T tokens, F features, P pixels of the
batch, L layers with dropout, U units of an example.
"""

from collections.abc import Callable
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_impl.precision import Dtypes
from recipe.dropout import ROUNDS, UNIT, least_kept
from recipe.experiment import NormConfig
from recipe.norms import check_statistics

# On a CPU a kernel's gradient is summed over parts of the batch of about so many output
# pixels, at most so many parts: the library's copies of the images then stay in cache
# (ms, 2 cores with AVX-512, jax 0.10.2, fp32). 16 to 32 channels 3x3, batch 64 at
# 32x32, 4.6 against 21.9; 32 to 32 at 16x16 3.2 against 7.0; 1 to 10 5x5, batch 128 at
# 28x28, .9 against 6.0; 10 to 20 at 12x12 1.2 against 3.2. More parts pay off only for
# images of few channels: a step of resnet18 (width .25, batch 32) takes 57 ms with at
# most 4, 64 with 16 and 65 with the library; the CNN's (batch 128) 8.8, 7.7 and 10.6.
PART_PIXELS, MOST_PARTS = 2048, 4
FEW_CHANNELS, MOST_PARTS_OF_FEW = 4, 16


class Conv(nnx.Conv):
    """A square convolution, zero-padded on all four sides.

    The input and the kernel are cast to the compute dtype.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        dtypes: Dtypes,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
    ):
        super().__init__(
            before,
            after,
            kernel_size=(kernel, kernel),
            strides=stride,
            padding=padding,
            use_bias=bias,
            dtype=dtypes.compute,
            param_dtype=dtypes.parameter,
            conv_general_dilated=_conv_general_dilated,
            rngs=nnx.Rngs(0),
        )


class Dense(nnx.Linear):
    """A matrix product over the last axis; both factors cast to the compute dtype."""

    def __init__(self, before: int, after: int, dtypes: Dtypes, *, bias: bool = True):
        super().__init__(
            before,
            after,
            use_bias=bias,
            dtype=dtypes.compute,
            param_dtype=dtypes.parameter,
            rngs=nnx.Rngs(0),
        )

    def __call__(
        self, inputs: Float[Array, "*B F"], out_sharding: Any = None
    ) -> Float[Array, "*B f"]:
        """As one matrix, else XLA's CPU backend copies it for the kernel's gradient.

        (Six blocks of vit_tiny, batch 32, 2 cores: a step of 473 ms against 291.)
        """
        rows = inputs.reshape(-1, inputs.shape[-1])
        return super().__call__(rows, out_sharding).reshape(*inputs.shape[:-1], -1)


class BatchNorm(nnx.Module):
    """Normalises each channel over examples and pixels, then scales and shifts.

    The variance is computed in two passes, with 1/N; the running variance has N/(N - 1)
    of it, N = examples x pixels, and evaluation uses the running statistics. All in the
    parameters' dtype, the result in the compute dtype.

    `exchange.scope_norms` sets `axis` if the statistics are those of a global batch
    that is spread over devices.

    Source: Ioffe and Szegedy, Batch Normalization, ICML 2015.
    """

    def __init__(self, channels: int, norm: NormConfig, dtypes: Dtypes):
        dtype = dtypes.parameter
        self.scale = nnx.Param(jnp.ones(channels, dtype))
        self.bias = nnx.Param(jnp.zeros(channels, dtype))
        self.mean = nnx.BatchStat(jnp.zeros(channels, dtype))
        self.var = nnx.BatchStat(jnp.ones(channels, dtype))
        self.sync, self.momentum, self.eps = norm.sync, norm.momentum, norm.eps
        self.compute_dtype = dtypes.compute
        self.use_running_average = False  # nnx.Module.train() and eval() set it
        self.axis: str | None = None

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        if self.use_running_average:
            x = x_BHWC.astype(self.scale.dtype)
            centred = x - self.mean[(None,) * (x.ndim - 1)]
            var = self.var[...]
        else:
            channels = x_BHWC.shape[-1]
            x_PC = x_BHWC.astype(self.scale.dtype).reshape(-1, channels)
            ranks = 1 if self.axis is None else jax.lax.axis_size(self.axis)
            check_statistics(len(x_PC) * ranks)
            mean_C = self._average(x_PC)
            centred = x_PC - mean_C[None]
            var = self._average(jnp.square(centred))
            self._update(mean_C, var, len(x_PC) * ranks)
        scale_C = self.scale * jax.lax.rsqrt(var + self.eps)
        before = (None,) * (centred.ndim - 1)  # the axes before the channels
        normal = centred * scale_C[before] + self.bias[before]
        return normal.reshape(x_BHWC.shape).astype(self.compute_dtype)

    def _average(self, x_PC: Array) -> Float[Array, " C"]:
        mean_C = x_PC.mean(axis=0)
        return mean_C if self.axis is None else jax.lax.pmean(mean_C, self.axis)

    def _update(self, mean_C: Array, var_C: Array, count: int) -> None:
        """Update the running statistics with the batch's."""
        unbiased_C = var_C * (count / (count - 1))
        self.mean[...] += self.momentum * (mean_C - self.mean[...])
        self.var[...] += self.momentum * (unbiased_C - self.var[...])


class GroupNorm(nnx.GroupNorm):
    """Normalises each group of an example's channels, then scales and shifts.

    In the parameters' dtype, the result in the compute dtype.

    Source: Wu and He, Group Normalization, ECCV 2018.
    """

    def __init__(self, channels: int, norm: NormConfig, dtypes: Dtypes):
        super().__init__(
            channels,
            norm.groups,
            epsilon=norm.eps,
            use_fast_variance=False,
            dtype=dtypes.compute,
            param_dtype=dtypes.parameter,
            rngs=nnx.Rngs(0),
        )


class LayerNorm(nnx.LayerNorm):
    """Normalises each pixel's or token's channels, then scales and shifts.

    In the parameters' dtype, the result in the compute dtype.

    Source: Ba et al., Layer Normalization, 2016; of pixels, Liu et al., A ConvNet for
    the 2020s, CVPR 2022.
    """

    def __init__(self, channels: int, norm: NormConfig, dtypes: Dtypes):
        super().__init__(
            channels,
            epsilon=norm.eps,
            use_fast_variance=False,
            dtype=dtypes.compute,
            param_dtype=dtypes.parameter,
            rngs=nnx.Rngs(0),
        )


NORMS = {"batch": BatchNorm, "group": GroupNorm, "layer": LayerNorm}


class Dropout(nnx.Module):
    """Zeros a fraction of each example's units in training, and scales the others up.

    The examples' keys decide which (`recipe/dropout.py`); in evaluation there are no
    keys, and nothing is dropped. Scaled by 1/(1 - rate) in the parameters' dtype, since
    in 16 bits the frameworks round the factor differently; the result in the input's
    dtype.

    Source: Srivastava et al., Dropout, JMLR 2014.
    """

    def __init__(self, rate: float, dtypes: Dtypes):
        self.rate, self.dtype = rate, dtypes.parameter

    def __call__(
        self, x: Float[Array, "B ..."], keys_BL: Int[Array, "B L"] | None, layer: int
    ) -> Float[Array, "B ..."]:
        if keys_BL is None:
            return x
        return drop(x, keys_BL[:, layer], self.rate, self.dtype)


def drop(
    x: Float[Array, "B ..."], keys_B: Int[Array, " B"], rate: float, dtype: Any
) -> Float[Array, "B ..."]:
    """Dropout with a key for each example.

    Args:
      dtype: of the scaling.
    """
    kept_BU = kept(keys_B, x[0].size, rate)
    scaled = x.astype(dtype) * (1 / (1 - rate))
    return jnp.where(kept_BU.reshape(x.shape), scaled, 0).astype(x.dtype)


def kept(keys_B: Int[Array, " B"], units: int, rate: float) -> Bool[Array, "B U"]:
    """Which units are kept."""
    units_U = jnp.arange(units, dtype=jnp.uint32)
    return words(keys_B, units_U) >= jnp.uint32(least_kept(rate))


def words(keys_B: Int[Array, " B"], units_U: Int[Array, " U"]) -> Int[Array, "B U"]:
    """The units' words, in uint32, whose products wrap."""
    words_BU = keys_B.astype(jnp.uint32)[:, None] ^ (units_U * jnp.uint32(UNIT))[None]
    for shift, factor in ROUNDS:
        words_BU ^= words_BU >> shift
        words_BU *= jnp.uint32(factor)
    return words_BU


def max_pool(
    x_BHWC: Float[Array, "B H W C"], size: int = 2, padding: int = 0
) -> Float[Array, "B h w C"]:
    """The maximum of size² pixels, stride 2; of equals the first gets the gradient.

    Written as comparisons of strided slices: on a CPU the gradient of `reduce_window`
    takes twenty times as long (117 ms against 6), and `jnp.maximum` would split the
    gradient between equal pixels, which are frequent in a blank background.

    Args:
      padding: pixels of -infinity on each side.
    """
    _, height, width, _ = x_BHWC.shape
    down = (height + 2 * padding - size) // 2 + 1
    across = (width + 2 * padding - size) // 2 + 1
    if padding:
        sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        x_BHWC = jnp.pad(x_BHWC, sides, constant_values=-jnp.inf)
    slices = [
        x_BHWC[:, top : top + 2 * down - 1 : 2, left : left + 2 * across - 1 : 2]
        for top in range(size)
        for left in range(size)
    ]
    return reduce(
        lambda first, other: jnp.where(
            (first >= other) | jnp.isnan(first), first, other
        ),
        slices,
    )


def average(x: Array, axes: int | tuple[int, ...], dtypes: Dtypes) -> Array:
    """The mean over pixels or tokens, summed in the parameters' dtype."""
    return x.astype(dtypes.parameter).mean(axes)


def flatten(x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
    """Features in the order of height, width, channel."""
    return x_BHWC.reshape(x_BHWC.shape[0], -1)


def gelu(x: Array) -> Array:
    """x times the normal CDF of x, by the error function.

    `nnx.gelu` uses its complement, which costs two branches and an exponential more on
    a CPU; this is also PyTorch's formula.
    """
    return x * 0.5 * (1 + jax.lax.erf(x * 2**-0.5))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x_BHWC: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C c"],
    stride: int,
    padding: int,
) -> Float[Array, "B h w c"]:
    """The library's convolution, with a kernel gradient that is fast on CPUs.

    Used only when compiling for a CPU; in PyTorch oneDNN does this. Sums of shifted
    products, for images of few channels, are faster alone (.51 ms against 2.45) and
    slower in a step (19.5 against 14.5 for the CNN's, batch 128): XLA recomputes them
    for each consumer, even behind a barrier.
    """
    return _library(x_BHWC, kernel, stride, padding)


def _forward(x: Array, kernel: Array, stride: int, padding: int) -> Any:
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: int, kept: Any, g: Array) -> tuple[Array, Array]:
    library = partial(_library, stride=stride, padding=padding)

    def to_input(x: Array, kernel: Array, g: Array) -> Array:
        return jax.vjp(lambda x: library(x, kernel), x)[1](g)[0]

    def to_kernel(x: Array, kernel: Array, g: Array) -> Array:
        return jax.vjp(lambda kernel: library(x, kernel), kernel)[1](g)[0]

    x, kernel = kept
    by_kernel = jax.lax.platform_dependent(
        *(x, kernel, g), cpu=partial(_in_parts, to_kernel), default=to_kernel
    )
    return to_input(x, kernel, g), by_kernel


convolve.defvjp(_forward, _backward)


def _library(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return jax.lax.conv_general_dilated(
        *(x, kernel, (stride, stride), [(padding, padding)] * 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _in_parts(
    to_kernel: Callable[..., Array], x: Array, kernel: Array, g: Array
) -> Array:
    """The kernel's gradient, summed over parts of the batch."""
    dtype, wide = x.dtype, np.promote_types(x.dtype, np.float32)
    x, kernel, g = (array.astype(wide) for array in (x, kernel, g))
    examples, height, width, _ = g.shape
    most = MOST_PARTS if x.shape[-1] > FEW_CHANNELS else MOST_PARTS_OF_FEW
    parts = min(most, max(1, examples * height * width // PART_PIXELS), examples)
    edges = [examples * part // parts for part in range(parts + 1)]
    gradients = (
        to_kernel(x[begin:end], kernel, g[begin:end]) for begin, end in pairwise(edges)
    )
    return reduce(jnp.add, gradients).astype(dtype)


def _conv_general_dilated(
    x: Array, kernel: Array, strides: Any, padding: Any, **others: Any
) -> Array:
    """For `nnx.Conv`: `convolve` if it supports the arguments, else the library's."""
    dilated = {*others["lhs_dilation"], *others["rhs_dilation"]} != {1}
    pads = [] if isinstance(padding, str) else [pad for side in padding for pad in side]
    whole = others["feature_group_count"] == 1 and not dilated
    if whole and len({*strides}) == len({*pads}) == 1:
        return convolve(x, kernel, strides[0], pads[0])
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **others)
