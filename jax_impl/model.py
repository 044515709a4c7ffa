"""The architectures, independent of devices, ranks and precision flags.

Shapes: B batch, C channels, H height, W width, T tokens, F features, N heads,
D features of a head, K outputs, L layers with dropout.
"""

from itertools import pairwise

from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jax_impl.blocks import (
    Block,
    ConvNorm,
    PooledStage,
    Position,
    Stage,
    build_dropout,
    build_norm,
    dense_layers,
)
from jax_impl.layers import (
    Conv,
    Dense,
    average,
    flatten,
    max_pool,
)
from jax_impl.own_dropout import held_rates, key_dropout, no_linen_dropout
from jax_impl.precision import dtypes
from jax_impl.weights import trained_leaves
from recipe.architecture import (
    CNN_KERNEL,
    RESNETS,
    VIT_HEADS,
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

    Source: LeCun et al. 1998 (LeNet-5), with ReLU and max-pooling; with padding 2 also
    the CNN of McMahan et al. 2017.
    """

    def __init__(self, config: Config):
        channels = [config.data.image_shape[2], *config.model.channels]
        padding = config.model.padding
        self.conv = nnx.List(
            Conv(before, after, CNN_KERNEL, dtypes(config), padding=padding, bias=True)
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
        # Not len, an int, which an export's batch is not.
        x = self.position(patches.reshape(patches.shape[0], -1, patches.shape[-1]))
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
