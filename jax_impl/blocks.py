"""What the architectures are built from: blocks of layers, norms and dropout.

Shapes: B batch, C channels, H height, W width, T tokens, F features, N heads,
D features of a head, K outputs, L layers with dropout.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jax_impl.layers import (
    NORMS,
    Conv,
    Dense,
    Dropout,
    gelu,
    max_pool,
)
from jax_impl.precision import dtypes
from recipe.architecture import (
    VIT_HEADS,
    VIT_MLP,
)
from recipe.config import Config


def build_dropout(config: Config) -> Callable[..., Array]:
    """The dropout layer for `model.dropout`, or a placeholder that traces ignore."""
    rate = config.model.dropout
    return Dropout(rate, dtypes(config)) if rate else keep_all


def keep_all(x: Array, keys_BL: None, layer: int) -> Array:
    """Stands in for dropout."""
    return x


def dense_layers(
    layers: nnx.List,
    dropout: Callable[..., Array],
    x_BF: Float[Array, "B F"],
    keys_BL: Int[Array, "B L"] | None,
) -> Float[Array, "B K"]:
    """Dense layers with ReLU and dropout between them."""
    *hidden, last = layers
    for i, dense in enumerate(hidden):
        x_BF = dropout(nnx.relu(dense(x_BF)), keys_BL, i)
    return last(x_BF)


def build_norm(config: Config, channels: int) -> nnx.Module:
    """The normalisation layer named by `model.norm`."""
    return NORMS[config.model.norm.name](channels, config.model.norm, dtypes(config))


class ConvNorm(nnx.Module):
    """A convolution that keeps the image's size unless strided, and a norm."""

    def __init__(
        self, config: Config, before: int, after: int, kernel: int, stride: int = 1
    ):
        self.conv = Conv(
            *(before, after, kernel, dtypes(config)),
            stride=stride,
            padding=kernel // 2,
        )
        self.norm = build_norm(config, after)

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        return self.norm(self.conv(x_BHWC))


class PooledStage(ConvNorm):
    """A convolution, max-pooling by 2, and a residual pair of convolutions.

    Args:
      residual: whether to add the pair.
    """

    def __init__(self, config: Config, before: int, after: int, residual: bool):
        super().__init__(config, before, after, 3)
        self.residual = nnx.List(
            ConvNorm(config, after, after, 3) for _ in range(2 if residual else 0)
        )

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        x = max_pool(nnx.relu(super().__call__(x_BHWC)))
        if not self.residual:
            return x
        y = x
        for conv_norm in self.residual:
            y = nnx.relu(conv_norm(y))
        return x + y


class Residual(nnx.Module):
    """Convolutions with a residual connection, which is a convolution if shapes differ.

    Args:
      width: channels of the convolutions, the last one's times `expansion`.
      expansion: 1: two 3x3; 4: 1x1, 3x3 and 1x1, a bottleneck.
      stride: of the first 3x3.
    """

    def __init__(
        self, config: Config, before: int, width: int, expansion: int, stride: int
    ):
        after = width * expansion
        if expansion == 1:
            forms = [(before, width, 3, stride), (width, width, 3, 1)]
        else:
            forms = [
                (before, width, 1, 1),
                (width, width, 3, stride),
                (width, after, 1, 1),
            ]
        self.conv = nnx.List(
            Conv(
                *(channels, out, kernel, dtypes(config)),
                stride=by,
                padding=kernel // 2,
            )
            for channels, out, kernel, by in forms
        )
        self.norm = nnx.List(build_norm(config, out) for _, out, _, _ in forms)
        same = stride == 1 and before == after
        self.shortcut = None if same else ConvNorm(config, before, after, 1, stride)

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        y = x_BHWC
        for i, (conv, norm) in enumerate(zip(self.conv, self.norm, strict=True)):
            y = norm(conv(nnx.relu(y) if i else y))
        x = x_BHWC if self.shortcut is None else self.shortcut(x_BHWC)
        return nnx.relu(y + x)


class Stage(nnx.Module):
    """Residual blocks of one width; the first one is strided."""

    def __init__(
        self,
        config: Config,
        before: int,
        width: int,
        expansion: int,
        stride: int,
        blocks: int,
    ):
        after = width * expansion
        first = Residual(config, before, width, expansion, stride)
        rest = (Residual(config, after, width, expansion, 1) for _ in range(blocks - 1))
        self.block = nnx.List([first, *rest])

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        x = x_BHWC
        for block in self.block:
            x = block(x)
        return x


class Position(nnx.Module):
    """Learned position embeddings, added to the tokens."""

    def __init__(self, config: Config, tokens: int, features: int):
        dtype = dtypes(config).parameter
        self.embedding = nnx.Param(jnp.zeros((tokens, features), dtype))

    def __call__(self, x_BTF: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
        return x_BTF + self.embedding.astype(x_BTF.dtype)[None]


class Attention(nnx.Module):
    """Multi-head self-attention.

    The softmax is computed in the parameters' dtype, the products in the compute dtype.

    Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017; keys without a bias
    as Bao et al., BEiT, ICLR 2022.
    """

    def __init__(self, config: Config, features: int):
        self.dtypes = dtypes(config)
        self.query = Dense(features, features, self.dtypes)
        # The softmax is invariant to a bias of the keys, whose gradient would be
        # rounding noise.
        self.key = Dense(features, features, self.dtypes, bias=False)
        self.value = Dense(features, features, self.dtypes)
        self.out = Dense(features, features, self.dtypes)

    def __call__(self, x_BTF: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
        query_BNTD, key_BNTD, value_BNTD = (
            dense(x_BTF).reshape(*x_BTF.shape[:2], VIT_HEADS, -1).swapaxes(1, 2)
            for dense in (self.query, self.key, self.value)
        )
        scale = query_BNTD.shape[-1] ** -0.5
        scores_BNTT = (query_BNTD * scale) @ key_BNTD.swapaxes(2, 3)
        weights_BNTT = jax.nn.softmax(scores_BNTT.astype(self.dtypes.parameter))
        mixture_BNTD = weights_BNTT.astype(self.dtypes.compute) @ value_BNTD
        return self.out(mixture_BNTD.swapaxes(1, 2).reshape(x_BTF.shape))


class Block(nnx.Module):
    """Attention, then an MLP on each token; each with a residual connection.

    GELU is exact, by the error function, not the tanh approximation.

    Source: Xiong et al., On Layer Normalization in the Transformer Architecture, ICML
    2020 (the norm comes first); Hendrycks and Gimpel, GELUs, 2016.
    """

    def __init__(self, config: Config, features: int, block: int):
        wide = VIT_MLP * features
        self.norm = nnx.List(build_norm(config, features) for _ in range(2))
        self.attention = Attention(config, features)
        self.mlp = nnx.List(
            Dense(before, after, dtypes(config))
            for before, after in ((features, wide), (wide, features))
        )
        self.dropout = build_dropout(config)
        self.first = 2 * block  # of its two dropout layers

    def __call__(
        self, x_BTF: Float[Array, "B T F"], keys_BL: Int[Array, "B L"] | None
    ) -> Float[Array, "B T F"]:
        y = self.attention(self.norm[0](x_BTF))
        x = x_BTF + self.dropout(y, keys_BL, self.first)
        y = gelu(self.mlp[0](self.norm[1](x)))
        return x + self.dropout(self.mlp[1](y), keys_BL, self.first + 1)
