"""Layers whose conventions differ between frameworks, written out.

Parameters are stored in one dtype and computed with in another: `precision.Dtypes`.

Shapes: B batch, C channels, H height, W width, T tokens, F features, L layers with
dropout, U units of an example.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recipe.dropout import ROUNDS, UNIT, WORD, least_kept
from recipe.experiment import NormConfig
from recipe.norms import check_statistics
from torch_impl.precision import Dtypes


class Conv(nn.Conv2d):
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
            before, after, kernel, stride, padding, bias=bias, dtype=dtypes.parameter
        )
        self.compute_dtype = dtypes.compute

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return self._conv_forward(
            input.to(self.compute_dtype), self.weight.to(self.compute_dtype), bias
        )


class Dense(nn.Linear):
    """A matrix product over the last axis; both factors cast to the compute dtype."""

    def __init__(self, before: int, after: int, dtypes: Dtypes, *, bias: bool = True):
        super().__init__(before, after, bias=bias, dtype=dtypes.parameter)
        self.compute_dtype = dtypes.compute

    def forward(self, input: Float[Tensor, "*B F"]) -> Float[Tensor, "*B f"]:
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return F.linear(
            input.to(self.compute_dtype), self.weight.to(self.compute_dtype), bias
        )


class BatchNorm(nn.Module):
    """Normalises each channel over examples and pixels, then scales and shifts.

    The variance is computed in two passes, with 1/N; the running variance has N/(N - 1)
    of it, N = examples x pixels, and evaluation uses the running statistics. All in the
    parameters' dtype, the result in the compute dtype. On a GPU the kernels read and
    write 16 bits themselves, as XLA's fused ones do: casts around them would be passes
    over memory, of twice the bytes. A CPU's would sum in another order than JAX's twin.

    `exchange.scope_norms` sets `sum_over_ranks` if the statistics are those of a global
    batch that is spread over ranks.

    Source: Ioffe and Szegedy, Batch Normalization, ICML 2015.
    """

    def __init__(self, channels: int, norm: NormConfig, dtypes: Dtypes):
        super().__init__()
        dtype = dtypes.parameter
        self.scale = nn.Parameter(torch.ones(channels, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=dtype))
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.zeros(channels, dtype=dtype))
        self.register_buffer("var", torch.ones(channels, dtype=dtype))
        self.sync, self.momentum, self.eps = norm.sync, norm.momentum, norm.eps
        self.compute_dtype = dtypes.compute
        self.sum_over_ranks: Callable[[Tensor], Tensor] | None = None  # differentiable
        self.ranks = 1  # that it sums over

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        if self.training:
            check_statistics(x_BCHW[:, 0].numel() * self.ranks)
        if self.training and self.sum_over_ranks is not None:
            wide_BCHW = x_BCHW.to(self.scale.dtype)
            normal = self._over_ranks(wide_BCHW, self.sum_over_ranks)
        else:
            normal = F.batch_norm(
                x_BCHW if x_BCHW.is_cuda else x_BCHW.to(self.scale.dtype),
                self.mean,
                self.var,
                self.scale,
                self.bias,
                self.training,
                self.momentum,
                self.eps,
            )
        return normal.to(self.compute_dtype)

    def _over_ranks(
        self, x_BCHW: Tensor, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """As `F.batch_norm` of the whole global batch."""
        count = x_BCHW[:, 0].numel() * self.ranks
        mean_C = sum_over_ranks(x_BCHW.sum((0, 2, 3))) / count
        centred = x_BCHW - mean_C[:, None, None]
        var_C = sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.mean.lerp_(mean_C, self.momentum)
            self.var.lerp_(var_C * (count / (count - 1)), self.momentum)
        scale_C = self.scale * torch.rsqrt(var_C + self.eps)
        return centred * scale_C[:, None, None] + self.bias[:, None, None]


class GroupNorm(nn.Module):
    """Normalises each group of an example's channels, then scales and shifts.

    In the parameters' dtype, the result in the compute dtype. `F.group_norm` computes
    the variance as E[x²] - E[x]² on a CPU: for mean 100 and deviation 0.03 its output
    is off by 1.6.

    Source: Wu and He, Group Normalization, ECCV 2018.
    """

    def __init__(self, channels: int, norm: NormConfig, dtypes: Dtypes):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, dtype=dtypes.parameter))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=dtypes.parameter))
        self.groups, self.eps = norm.groups, norm.eps
        self.compute_dtype = dtypes.compute

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        # Not len, an int, which would fix the batch of an export.
        shape = x_BCHW.shape[0], self.groups, -1
        groups_BGP = x_BCHW.to(self.scale.dtype).reshape(shape)
        normal = F.layer_norm(groups_BGP, groups_BGP.shape[2:], eps=self.eps)
        scale_C11, bias_C11 = self.scale[:, None, None], self.bias[:, None, None]
        normal = normal.reshape(x_BCHW.shape) * scale_C11 + bias_C11
        return normal.to(self.compute_dtype)


class LayerNorm(nn.Module):
    """Normalises each pixel's or token's channels, then scales and shifts.

    In the parameters' dtype, the result in the compute dtype.

    Source: Ba et al., Layer Normalization, 2016; of pixels, Liu et al., A ConvNet for
    the 2020s, CVPR 2022.
    """

    def __init__(self, channels: int, norm: NormConfig, dtypes: Dtypes):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, dtype=dtypes.parameter))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=dtypes.parameter))
        self.eps = norm.eps
        self.compute_dtype = dtypes.compute

    def forward(self, x: Float[Tensor, "B C H W"] | Float[Tensor, "B T C"]) -> Tensor:
        channels = 1 if x.ndim == 4 else -1
        wide = x.to(self.scale.dtype).movedim(channels, -1)
        normal = F.layer_norm(wide, self.scale.shape, self.scale, self.bias, self.eps)
        return normal.movedim(-1, channels).to(self.compute_dtype)


NORMS = {"batch": BatchNorm, "group": GroupNorm, "layer": LayerNorm}


class Dropout(nn.Module):
    """Zeros a fraction of each example's units in training, and scales the others up.

    The examples' keys decide which (`recipe/dropout.py`); in evaluation there are no
    keys, and nothing is dropped. Scaled by 1/(1 - rate) in the parameters' dtype, since
    in 16 bits the frameworks round the factor differently; the result in the input's
    dtype.

    Source: Srivastava et al., Dropout, JMLR 2014.
    """

    def __init__(self, rate: float, dtypes: Dtypes):
        super().__init__()
        self.rate, self.dtype = rate, dtypes.parameter

    def forward(
        self, x: Float[Tensor, "B ..."], keys_BL: Int[Tensor, "B L"] | None, layer: int
    ) -> Float[Tensor, "B ..."]:
        if keys_BL is None:
            return x
        return drop(x, keys_BL[:, layer], self.rate, self.dtype)


def drop(
    x: Float[Tensor, "B ..."], keys_B: Int[Tensor, " B"], rate: float, dtype: Any
) -> Float[Tensor, "B ..."]:
    """Dropout with a key for each example.

    Args:
      dtype: of the scaling.
    """
    kept_BU = kept(keys_B, x[0].numel(), rate)
    scaled = x.to(dtype) * (1 / (1 - rate))
    return torch.where(kept_BU.reshape(x.shape), scaled, 0).to(x.dtype)


def kept(keys_B: Int[Tensor, " B"], units: int, rate: float) -> Bool[Tensor, "B U"]:
    """Which units are kept."""
    units_U = torch.arange(units, device=keys_B.device)
    return words(keys_B, units_U) >= least_kept(rate)


def words(keys_B: Int[Tensor, " B"], units_U: Int[Tensor, " U"]) -> Int[Tensor, "B U"]:
    """The units' words, in int64: torch supports little for unsigned integers."""
    words_BU = keys_B.long()[:, None] ^ (units_U * UNIT & WORD)
    for shift, factor in ROUNDS:
        words_BU ^= words_BU >> shift
        words_BU *= factor
        words_BU &= WORD
    return words_BU


def max_pool(
    x_BCHW: Float[Tensor, "B C H W"], size: int = 2, padding: int = 0
) -> Float[Tensor, "B C h w"]:
    """The maximum of size² pixels, stride 2; of equals the first gets the gradient.

    Args:
      padding: pixels of -infinity on each side.
    """
    return F.max_pool2d(x_BCHW, kernel_size=size, stride=2, padding=padding)


def average(x: Tensor, axes: int | tuple[int, ...], dtypes: Dtypes) -> Tensor:
    """The mean over pixels or tokens, summed in the parameters' dtype."""
    return x.to(dtypes.parameter).mean(axes)


def flatten(x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
    """Features in the order of height, width, channel."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(start_dim=1)
