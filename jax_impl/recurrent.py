"""Recurrent layers over a whole sequence, from an initial state of zeros.

Torch's `nn.GRU` and `nn.LSTM` compute the same with two biases for each gate, as these
have by default; Flax's cells have one, as these do without the other. The order of
gates is torch's and Flax's: r, z, n and i, f, g, o.

Shapes: B batch, T steps of the sequence, F features, H features of the state, G all
gates' features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jax_impl.layers import Dense
from jax_impl.precision import Dtypes


class _Recurrent(nnx.Module):
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
        wide = self.gates * after
        self.dense_i = Dense(before, wide, dtypes, bias=bias_i)
        self.dense_h = Dense(after, wide, dtypes, bias=bias_h)
        self.compute_dtype = dtypes.compute

    def _product(self, dense: Dense, x: Array) -> Array:
        kernel = dense.kernel[...].astype(self.compute_dtype)
        product = x.astype(self.compute_dtype) @ kernel
        if dense.bias is None:
            return product
        bias = dense.bias[...].astype(self.compute_dtype)
        return product + bias[(None,) * (product.ndim - 1)]

    def _over_time(self, step: Any, x_BTF: Array, states: int) -> Float[Array, "B T H"]:
        """Scan over the steps; the input's products are computed at once."""
        of_input_BTG = self._product(self.dense_i, x_BTF)
        shape = x_BTF.shape[0], self.dense_h.in_features
        zeros_BH = jnp.zeros(shape, of_input_BTG.dtype)
        _, out_TBH = jax.lax.scan(
            step, (zeros_BH,) * states, of_input_BTG.swapaxes(0, 1)
        )
        return out_TBH.swapaxes(0, 1)


class GRU(_Recurrent):
    """A GRU; returns the state after each step.

    r = s(Wr x + Ur h),  z = s(Wz x + Uz h),  n = tanh(Wn x + r (Un h)),
    h = (1 - z) n + z h,  biases within each product.

    Source: Cho et al., Learning Phrase Representations, EMNLP 2014, in torch's form,
    with r after the product.
    """

    gates = 3

    def __call__(self, x_BTF: Float[Array, "B T F"]) -> Float[Array, "B T H"]:
        def step(state: Any, of_input_BG: Array) -> tuple[Any, Array]:
            (h,) = state
            of_state_BG = self._product(self.dense_h, h)
            r_i, z_i, n_i = jnp.split(of_input_BG, self.gates, axis=-1)
            r_h, z_h, n_h = jnp.split(of_state_BG, self.gates, axis=-1)
            r, z = jax.nn.sigmoid(r_i + r_h), jax.nn.sigmoid(z_i + z_h)
            n = jnp.tanh(n_i + r * n_h)
            h = (1 - z) * n + z * h
            return (h,), h

        return self._over_time(step, x_BTF, states=1)


class LSTM(_Recurrent):
    """An LSTM; returns the state after each step.

    i, f, o = s(W x + U h),  g = tanh(W x + U h),  c = f c + i g,  h = o tanh(c).

    Source: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; the forget gate
    as Gers et al., 2000.
    """

    gates = 4

    def __call__(self, x_BTF: Float[Array, "B T F"]) -> Float[Array, "B T H"]:
        def step(state: Any, of_input_BG: Array) -> tuple[Any, Array]:
            h, c = state
            of_all_BG = of_input_BG + self._product(self.dense_h, h)
            i, f, g, o = jnp.split(of_all_BG, self.gates, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return self._over_time(step, x_BTF, states=2)
