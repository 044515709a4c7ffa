"""Recurrent layers over a whole sequence, from an initial state of zeros.

Torch's `nn.GRU` and `nn.LSTM` compute the same with two biases for each gate, as these
have by default; Flax's cells have one, as these do without the other. The order of
gates is torch's and Flax's: r, z, n and i, f, g, o.

Shapes: B batch, T steps of the sequence, F features, H features of the state.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_impl.layers import Dense
from torch_impl.precision import Dtypes


class _Recurrent(nn.Module):
    """The matrix products of all gates, with the input and with the state.

    Args:
      bias_i, bias_h: whether the product has a bias.
    """

    gates: int

    def __init__(
        self,
        before: int,
        after: int,
        dtypes: Dtypes,
        *,
        bias_i: bool = True,
        bias_h: bool = True,
    ):
        super().__init__()
        wide = self.gates * after
        self.dense_i = Dense(before, wide, dtypes, bias=bias_i)
        self.dense_h = Dense(after, wide, dtypes, bias=bias_h)
        self.compute_dtype = dtypes.compute

    def _given(self, x_BTF: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Any]:
        """Arguments for torch's functions: input, a state of zeros and weights."""
        denses = self.dense_i, self.dense_h
        kernels = [dense.weight.to(self.compute_dtype) for dense in denses]
        biases = [
            kernels[0].new_zeros(len(kernels[0]))
            if dense.bias is None
            else dense.bias.to(self.compute_dtype)
            for dense in denses
        ]
        x_BTF = x_BTF.to(self.compute_dtype)
        state = x_BTF.new_zeros(1, x_BTF.shape[0], self.dense_h.in_features)
        # Biases; one layer; dropout of none; training; one direction; batch first.
        options = True, 1, 0.0, self.training, False, True
        return x_BTF, state, [*kernels, *biases], options


class GRU(_Recurrent):
    """A GRU; returns the state after each step.

    r = s(Wr x + Ur h),  z = s(Wz x + Uz h),  n = tanh(Wn x + r (Un h)),
    h = (1 - z) n + z h,  biases within each product.

    Source: Cho et al., Learning Phrase Representations, EMNLP 2014, in torch's form,
    with r after the product.
    """

    gates = 3

    def forward(self, x_BTF: Float[Tensor, "B T F"]) -> Float[Tensor, "B T H"]:
        x_BTF, state, weights, options = self._given(x_BTF)
        return torch.gru(x_BTF, state, weights, *options)[0]


class LSTM(_Recurrent):
    """An LSTM; returns the state after each step.

    i, f, o = s(W x + U h),  g = tanh(W x + U h),  c = f c + i g,  h = o tanh(c).

    Source: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; the forget gate
    as Gers et al., 2000.
    """

    gates = 4

    def forward(self, x_BTF: Float[Tensor, "B T F"]) -> Float[Tensor, "B T H"]:
        x_BTF, state, weights, options = self._given(x_BTF)
        return torch.lstm(x_BTF, [state, state], weights, *options)[0]
