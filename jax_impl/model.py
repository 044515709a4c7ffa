"""The architectures, independent of devices, ranks and precision flags.

Shapes: B batch, C channels, H height, W width, T tokens, F features, N heads,
D features of a head, K outputs, L layers with dropout.
"""

from collections.abc import Callable
from itertools import pairwise

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
    average,
    flatten,
    gelu,
    max_pool,
)
from jax_impl.own_dropout import held_rates, key_dropout, no_linen_dropout
from jax_impl.precision import dtypes
from jax_impl.weights import trained_leaves
from recipe.architecture import (
    CNN_KERNEL,
    RESNETS,
    VIT_HEADS,
    VIT_MLP,
    dense_widths,
    outputs,
    resnet9_widths,
    resnet_widths,
    scaled,
    stem_kernel,
    vit_tokens,
)
from recipe.config import Config
from recipe.dropout import check_rates, own_rates
from recipe.own_model import check_inputs, checked_kind, own_module
from recipe.weights import check_trained


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


class MLP(nnx.Module):
    """Dense layers with ReLU between them; without hidden ones, a linear model."""

    def __init__(self, config: Config):
        self.dense = nnx.List(
            Dense(before, after, dtypes(config))
            for before, after in pairwise(dense_widths(config.model, config.data))
        )
        self.dropout = build_dropout(config)

    def __call__(
        self,
        x_BHWC: Float[Array, "B H W C"],
        keys_BL: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B K"]:
        x = flatten(x_BHWC)
        return dense_layers(self.dense, self.dropout, x, keys_BL)


class CNN(nnx.Module):
    """Rounds of 5x5 convolution, 2x2 max-pooling and ReLU, then dense layers.

    Source: LeCun et al. 1998 (LeNet-5), with ReLU and max-pooling.
    """

    def __init__(self, config: Config):
        channels = [config.data.image_shape[2], *config.model.channels]
        self.conv = nnx.List(
            Conv(before, after, CNN_KERNEL, dtypes(config), bias=True)
            for before, after in pairwise(channels)
        )
        self.dense = nnx.List(
            Dense(before, after, dtypes(config))
            for before, after in pairwise(dense_widths(config.model, config.data))
        )
        self.dropout = build_dropout(config)

    def __call__(
        self,
        x_BHWC: Float[Array, "B H W C"],
        keys_BL: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B K"]:
        x = x_BHWC
        for conv in self.conv:
            x = nnx.relu(max_pool(conv(x)))
        return dense_layers(self.dense, self.dropout, flatten(x), keys_BL)


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


class ResNet9(nnx.Module):
    """A small residual network that is fast to train on CIFAR-10.

    Source: Page, How to Train Your ResNet, 2018 (DAWNBench), myrtle.ai/learn; also for
    the factor 1/8 on the logits.
    """

    def __init__(self, config: Config):
        widths = resnet9_widths(config.model)
        self.prep = ConvNorm(config, config.data.image_shape[2], widths[0], 3)
        self.stage = nnx.List(
            PooledStage(config, before, after, residual=i != 1)
            for i, (before, after) in enumerate(pairwise(widths))
        )
        self.head = Dense(widths[-1], outputs(config.data), dtypes(config), bias=False)

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        x = nnx.relu(self.prep(x_BHWC))
        for stage in self.stage:
            x = stage(x)
        return self.head(x.max(axis=(1, 2))) / 8


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


class ResNet(nnx.Module):
    """A stem, four stages of residual blocks, and the mean over pixels.

    Source: He et al., Deep Residual Learning, CVPR 2016; the stride of a bottleneck on
    its 3x3 as Goyal et al., 2017, and torchvision have it.
    """

    def __init__(self, config: Config):
        form, widths = RESNETS[config.model.name], resnet_widths(config.model)
        self.dtypes = dtypes(config)
        kernel = stem_kernel(config.model)
        self.large = kernel == 7  # images: the stem is strided, and pooled
        self.stem = ConvNorm(
            *(config, config.data.image_shape[2], widths[0], kernel),
            stride=2 if self.large else 1,
        )
        channels = [widths[0], *(width * form.expansion for width in widths)]
        self.stage = nnx.List(
            Stage(config, before, width, form.expansion, 2 if i else 1, blocks)
            for i, (before, width, blocks) in enumerate(
                zip(channels, widths, form.blocks, strict=False)
            )
        )
        self.head = Dense(channels[-1], outputs(config.data), self.dtypes)

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        x = nnx.relu(self.stem(x_BHWC))
        if self.large:
            x = max_pool(x, size=3, padding=1)
        for stage in self.stage:
            x = stage(x)
        return self.head(average(x, (1, 2), self.dtypes))


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


class ViT(nnx.Module):
    """Patches as tokens, transformer blocks, and the mean over tokens.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021; the mean
    instead of a class token as Beyer et al., Better Plain ViT Baselines, 2022.
    """

    def __init__(self, config: Config):
        self.dtypes = dtypes(config)
        patch, features = config.model.patch, VIT_HEADS * scaled(config.model, 64)
        self.patches = Conv(
            *(config.data.image_shape[2], features, patch, self.dtypes),
            stride=patch,
            bias=True,
        )
        self.position = Position(
            config, vit_tokens(config.model, config.data), features
        )
        self.block = nnx.List(
            Block(config, features, i) for i in range(config.model.blocks)
        )
        self.norm = build_norm(config, features)
        self.head = Dense(features, outputs(config.data), self.dtypes)

    def __call__(
        self,
        x_BHWC: Float[Array, "B H W C"],
        keys_BL: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B K"]:
        patches = self.patches(x_BHWC)
        x = self.position(patches.reshape(len(patches), -1, patches.shape[-1]))
        for block in self.block:
            x = block(x, keys_BL)
        return self.head(average(self.norm(x), 1, self.dtypes))


def build_own(config: Config, folder: str) -> nnx.Module:
    """A custom model; its dropout rates are not compared with its shapes.py here.

    Raises:
      ConfigError: if it is not a module, or takes more than the images.
    """
    own = own_module(folder, "jax_model.py")
    with no_linen_dropout():
        built = nnx.eval_shape(
            lambda: checked_kind("jax_model.py", own.build_model(config), nnx.Module)
        )
    check_inputs("jax_model.py", built.__call__)
    key_dropout(config, built)
    return built


def build_model(config: Config) -> nnx.Module:
    """The architecture without values: parameters are shapes and types."""
    if config.model.folder is not None:
        own = build_own(config, config.model.folder)
        check_rates(held_rates(own), own_rates(config))
        check_trained("jax_model.py", trained_leaves(own))
        return own
    model = {
        "cnn": CNN,
        "linear": MLP,
        "mlp": MLP,
        "resnet9": ResNet9,
        "resnet18": ResNet,
        "resnet50": ResNet,
        "vit_tiny": ViT,
    }[config.model.name]
    return nnx.eval_shape(lambda: model(config))
