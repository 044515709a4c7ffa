"""What the architectures are built from: blocks of layers, norms and dropout.

Shapes: B batch, C channels, H height, W width, T tokens, F features, N heads,
D features of a head, K outputs, L layers with dropout.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from recipe.architecture import (
    VIT_HEADS,
    VIT_MLP,
)
from recipe.config import Config
from torch_impl.layers import (
    NORMS,
    Conv,
    Dense,
    Dropout,
    max_pool,
)
from torch_impl.precision import dtypes


def build_dropout(config: Config) -> Callable[..., Tensor]:
    """The dropout layer for `model.dropout`, or a placeholder that traces ignore."""
    rate = config.model.dropout
    return Dropout(rate, dtypes(config)) if rate else keep_all


def keep_all(x: Tensor, keys_BL: None, layer: int) -> Tensor:
    """Stands in for dropout."""
    return x


def dense_layers(
    layers: nn.ModuleList,
    dropout: Callable[..., Tensor],
    x_BF: Float[Tensor, "B F"],
    keys_BL: Int[Tensor, "B L"] | None,
) -> Float[Tensor, "B K"]:
    """Dense layers with ReLU and dropout between them."""
    *hidden, last = layers
    for i, dense in enumerate(hidden):
        x_BF = dropout(F.relu(dense(x_BF)), keys_BL, i)
    return last(x_BF)


def build_norm(config: Config, channels: int) -> nn.Module:
    """The normalisation layer named by `model.norm`."""
    return NORMS[config.model.norm.name](channels, config.model.norm, dtypes(config))


class ConvNorm(nn.Module):
    """A convolution that keeps the image's size unless strided, and a norm."""

    def __init__(
        self, config: Config, before: int, after: int, kernel: int, stride: int = 1
    ):
        super().__init__()
        self.conv = Conv(
            *(before, after, kernel, dtypes(config)),
            stride=stride,
            padding=kernel // 2,
        )
        self.norm = build_norm(config, after)

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        return self.norm(self.conv(x_BCHW))


class PooledStage(ConvNorm):
    """A convolution, max-pooling by 2, and a residual pair of convolutions.

    Args:
      residual: whether to add the pair.
    """

    def __init__(self, config: Config, before: int, after: int, residual: bool):
        super().__init__(config, before, after, 3)
        self.residual = nn.ModuleList(
            ConvNorm(config, after, after, 3) for _ in range(2 if residual else 0)
        )

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        x = max_pool(F.relu(super().forward(x_BCHW)))
        if not self.residual:
            return x
        y = x
        for conv_norm in self.residual:
            y = F.relu(conv_norm(y))
        return x + y


class Residual(nn.Module):
    """Convolutions with a residual connection, which is a convolution if shapes differ.

    Args:
      width: channels of the convolutions, the last one's times `expansion`.
      expansion: 1: two 3x3; 4: 1x1, 3x3 and 1x1, a bottleneck.
      stride: of the first 3x3.
    """

    def __init__(
        self, config: Config, before: int, width: int, expansion: int, stride: int
    ):
        super().__init__()
        after = width * expansion
        if expansion == 1:
            forms = [(before, width, 3, stride), (width, width, 3, 1)]
        else:
            forms = [
                (before, width, 1, 1),
                (width, width, 3, stride),
                (width, after, 1, 1),
            ]
        self.conv = nn.ModuleList(
            Conv(
                *(channels, out, kernel, dtypes(config)),
                stride=by,
                padding=kernel // 2,
            )
            for channels, out, kernel, by in forms
        )
        self.norm = nn.ModuleList(build_norm(config, out) for _, out, _, _ in forms)
        same = stride == 1 and before == after
        self.shortcut = None if same else ConvNorm(config, before, after, 1, stride)

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        y = x_BCHW
        for i, (conv, norm) in enumerate(zip(self.conv, self.norm, strict=True)):
            y = norm(conv(F.relu(y) if i else y))
        x = x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        return F.relu(y + x)


class Stage(nn.Module):
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
        super().__init__()
        after = width * expansion
        first = Residual(config, before, width, expansion, stride)
        rest = (Residual(config, after, width, expansion, 1) for _ in range(blocks - 1))
        self.block = nn.ModuleList([first, *rest])

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        x = x_BCHW
        for block in self.block:
            x = block(x)
        return x


class Position(nn.Module):
    """Learned position embeddings, added to the tokens."""

    def __init__(self, config: Config, tokens: int, features: int):
        super().__init__()
        dtype = dtypes(config).parameter
        self.embedding = nn.Parameter(torch.zeros(tokens, features, dtype=dtype))

    def forward(self, x_BTF: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        return x_BTF + self.embedding.to(x_BTF.dtype)


class Attention(nn.Module):
    """Multi-head self-attention.

    The softmax is computed in the parameters' dtype, the products in the compute dtype.

    Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017; keys without a bias
    as Bao et al., BEiT, ICLR 2022.
    """

    def __init__(self, config: Config, features: int):
        super().__init__()
        self.dtypes = dtypes(config)
        self.query = Dense(features, features, self.dtypes)
        # The softmax is invariant to a bias of the keys, whose gradient would be
        # rounding noise.
        self.key = Dense(features, features, self.dtypes, bias=False)
        self.value = Dense(features, features, self.dtypes)
        self.out = Dense(features, features, self.dtypes)

    def forward(self, x_BTF: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        query_BNTD, key_BNTD, value_BNTD = (
            dense(x_BTF).unflatten(-1, (VIT_HEADS, -1)).transpose(1, 2)
            for dense in (self.query, self.key, self.value)
        )
        scale = query_BNTD.shape[-1] ** -0.5
        scores_BNTT = (query_BNTD * scale) @ key_BNTD.transpose(2, 3)
        weights_BNTT = scores_BNTT.to(self.dtypes.parameter).softmax(dim=-1)
        mixture_BNTD = weights_BNTT.to(self.dtypes.compute) @ value_BNTD
        return self.out(mixture_BNTD.transpose(1, 2).flatten(start_dim=2))


class Block(nn.Module):
    """Attention, then an MLP on each token; each with a residual connection.

    GELU is exact, by the error function, not the tanh approximation.

    Source: Xiong et al., On Layer Normalization in the Transformer Architecture, ICML
    2020 (the norm comes first); Hendrycks and Gimpel, GELUs, 2016.
    """

    def __init__(self, config: Config, features: int, block: int):
        super().__init__()
        wide = VIT_MLP * features
        self.norm = nn.ModuleList(build_norm(config, features) for _ in range(2))
        self.attention = Attention(config, features)
        self.mlp = nn.ModuleList(
            Dense(before, after, dtypes(config))
            for before, after in ((features, wide), (wide, features))
        )
        self.dropout = build_dropout(config)
        self.first = 2 * block  # of its two dropout layers

    def forward(
        self, x_BTF: Float[Tensor, "B T F"], keys_BL: Int[Tensor, "B L"] | None
    ) -> Float[Tensor, "B T F"]:
        y = self.attention(self.norm[0](x_BTF))
        x = x_BTF + self.dropout(y, keys_BL, self.first)
        y = F.gelu(self.mlp[0](self.norm[1](x)), approximate="none")
        return x + self.dropout(self.mlp[1](y), keys_BL, self.first + 1)
