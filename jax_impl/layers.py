"""Layers whose convention has to be written out.

Parameters are kept in one dtype and computed with in another: `precision.Dtypes`. The
`nnx.Rngs` that Flax asks for draw nothing: models are built by `nnx.eval_shape`.

Shapes: B batch, C channels, H height, W width, T tokens, F features, P pixels of the
batch.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jax_impl.precision import Dtypes
from recipe.experiment import NormConfig
from recipe.world import check_statistics


class Conv(nnx.Conv):
    """A square convolution, padded by as many zeros as said, on all four sides.

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
            rngs=nnx.Rngs(0),
        )


class Dense(nnx.Linear):
    """A matrix product over the last axis; both sides cast to the compute dtype."""

    def __init__(self, before: int, after: int, dtypes: Dtypes, *, bias: bool = True):
        super().__init__(
            before,
            after,
            use_bias=bias,
            dtype=dtypes.compute,
            param_dtype=dtypes.parameter,
            rngs=nnx.Rngs(0),
        )


class BatchNorm(nnx.Module):
    """Each channel to mean 0 and variance 1 over examples and pixels, then an affine.

    Variances are taken in two passes and normalise with 1/N; the running variance takes
    N/(N - 1) of them, N = examples x pixels, and evaluation normalises with the running
    statistics. All in the parameters' dtype, the result in the compute dtype.

    `parallel.scope_norms` sets `axis` where the statistics are those of the global
    batch and other devices hold parts of it.

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
            centred = x_BHWC.astype(self.scale.dtype) - self.mean[...]
            var = self.var[...]
        else:
            channels = x_BHWC.shape[-1]
            x_PC = x_BHWC.astype(self.scale.dtype).reshape(-1, channels)
            ranks = 1 if self.axis is None else jax.lax.axis_size(self.axis)
            check_statistics(len(x_PC) * ranks)
            mean_C = self._average(x_PC)
            centred = x_PC - mean_C
            var = self._average(jnp.square(centred))
            self._update(mean_C, var, len(x_PC) * ranks)
        scale = self.scale * jax.lax.rsqrt(var + self.eps)
        normal = centred * scale + self.bias
        return normal.reshape(x_BHWC.shape).astype(self.compute_dtype)

    def _average(self, x_PC: Array) -> Float[Array, " C"]:
        mean_C = x_PC.mean(axis=0)
        return mean_C if self.axis is None else jax.lax.pmean(mean_C, self.axis)

    def _update(self, mean_C: Array, var_C: Array, count: int) -> None:
        """Move the running statistics towards the batch's."""
        unbiased_C = var_C * (count / (count - 1))
        self.mean[...] += self.momentum * (mean_C - self.mean[...])
        self.var[...] += self.momentum * (unbiased_C - self.var[...])


class GroupNorm(nnx.GroupNorm):
    """Each example's groups of channels to mean 0 and variance 1, then an affine.

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
    """Each pixel's or token's channels to mean 0 and variance 1, then an affine.

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


def max_pool(
    x_BHWC: Float[Array, "B H W C"], size: int = 2, padding: int = 0
) -> Float[Array, "B h w C"]:
    """The maximum of size² pixels, stride 2; the first of equals has the gradient.

    Written as comparisons of strided slices: on a CPU the gradient of `reduce_window`
    takes twenty times as long (117 ms against 6), and `jnp.maximum` would split the
    gradient of equal pixels, of which a blank background is full.

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
