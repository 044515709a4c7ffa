"""What a model is made of: its layers in forward order, with their shapes and sizes.

Weights, FLOPs and the twins' `model.py` agree on this description: the twins write each
architecture out in their own framework, under these names.

Canonical names are module paths joined by dots (`stage.0.block.1.conv.0`); canonical
layouts are HWIO for convolution kernels and (in, out) for dense ones.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

from recipe.errors import ConfigError
from recipe.experiment import RESNET_STEMS, DataConfig, ModelConfig

CNN_KERNEL = 5  # height and width of the CNN's convolutions

# Dosovitskiy et al., ICLR 2021, in the size of Touvron et al., DeiT, ICML 2021 ("Ti").
VIT_HEADS, VIT_MLP = 3, 4


@dataclass(frozen=True)
class ResNet:
    """A residual network of He et al., CVPR 2016.

    Args:
      blocks: in each of the four stages.
      expansion: 1: blocks of two 3x3 convolutions; 4: bottlenecks, 1x1, 3x3 and 1x1
        with four times the channels, the stride on the 3x3 (as torchvision's).
    """

    blocks: tuple[int, int, int, int]
    expansion: int


# Kernel of a residual network's first convolution; 7 strides by 2, and is followed by
# max-pool.
STEM_KERNELS = {"cifar": 3, "imagenet": 7}

RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2), expansion=1),
    "resnet50": ResNet((3, 4, 6, 3), expansion=4),
}


@dataclass(frozen=True)
class Leaf:
    """One array: its shape, and the name of its initialiser in `recipe/weights.py`."""

    shape: tuple[int, ...]
    init: str


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One step of the forward pass that has parameters, or multiplies matrices.

    Args:
      name: canonical.
      kind: conv, dense, product, position, batch_norm, group_norm or layer_norm.
      leaves: its own arrays by name.
      multiply_adds: of one example's forward pass, including multiplications by
        padding.
    """

    name: str
    kind: str
    leaves: dict[str, Leaf] = field(default_factory=dict)
    multiply_adds: int = 0


class _Network:
    """Collects layers, and tracks the image (height, width, channels) after them."""

    def __init__(self, model: ModelConfig, data: DataConfig):
        self.norm_config = model.norm
        self.image = tuple(data.image_shape)
        self.layers: list[Layer] = []

    def conv(
        self,
        name: str,
        after: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        init: str = "he",
    ) -> None:
        height, width, before = self.image
        leaves = {"kernel": Leaf((kernel, kernel, before, after), init)}
        if bias:
            leaves["bias"] = Leaf((after,), "zeros")
        rows, columns = (_windows(n, kernel, stride, padding) for n in (height, width))
        self.layers.append(
            Layer(
                name=name,
                kind="conv",
                leaves=leaves,
                multiply_adds=rows * columns * kernel**2 * before * after,
            )
        )
        self.image = rows, columns, after

    def pool(self, size: int = 2, padding: int = 0) -> None:
        height, width, channels = self.image
        rows, columns = (_windows(n, size, 2, padding) for n in (height, width))
        self.image = rows, columns, channels

    def norm(self, name: str, scale: str = "ones") -> None:
        channels, norm = self.image[2], self.norm_config
        if norm.name == "group" and channels % norm.groups:
            raise ConfigError(
                f"model.norm.groups={norm.groups} does not divide the {channels} "
                f"channels of {name}; choose a divisor of {channels}"
            )
        inits = {"scale": scale, "bias": "zeros"}
        if norm.name == "batch":
            inits |= {"mean": "zeros", "var": "ones"}
        leaves = {leaf: Leaf((channels,), init) for leaf, init in inits.items()}
        self.layers.append(Layer(name=name, kind=f"{norm.name}_norm", leaves=leaves))

    def conv_norm(self, name: str, after: int, kernel: int, stride: int = 1) -> None:
        self.conv(f"{name}conv", after, kernel, stride=stride, padding=kernel // 2)
        self.norm(f"{name}norm")

    def dense(
        self,
        name: str,
        before: int,
        after: int,
        *,
        rows: int = 1,
        bias: bool = True,
        init: str = "he",
    ) -> None:
        leaves = {"kernel": Leaf((before, after), init)}
        if bias:
            leaves["bias"] = Leaf((after,), "zeros")
        self._product(name, "dense", rows * before * after, leaves)

    def product(self, name: str, multiply_adds: int) -> None:
        self._product(name, "product", multiply_adds, {})

    def _product(
        self, name: str, kind: str, multiply_adds: int, leaves: dict[str, Leaf]
    ) -> None:
        self.layers.append(
            Layer(
                name=name,
                kind=kind,
                leaves=leaves,
                multiply_adds=multiply_adds,
            )
        )


def _windows(size: int, kernel: int, stride: int, padding: int) -> int:
    """Positions of a kernel along an axis."""
    return (size + 2 * padding - kernel) // stride + 1


def outputs(data: DataConfig) -> int:
    """Width of the last layer: one logit per class, or the predicted value."""
    return data.classes or 1


def scaled(model: ModelConfig, channels: int) -> int:
    """Channels, or features of an attention head, times `model.width`."""
    return max(1, round(model.width * channels))


def dense_widths(model: ModelConfig, data: DataConfig) -> list[int]:
    """Widths of the MLP's or CNN's dense layers, from the first input to the output."""
    image = data.image_shape
    if model.name == "cnn":
        network = _Network(model, data)
        _add_convolutions(network, model, data)
        image = network.image
    return [prod(image), *model.hidden, outputs(data)]


def resnet9_widths(model: ModelConfig) -> list[int]:
    """Channels after the first convolution and after each of the three stages."""
    return [scaled(model, channels) for channels in (64, 128, 256, 512)]


def resnet_widths(model: ModelConfig) -> list[int]:
    """Channels within the blocks of each of the four stages; the stem has the first."""
    return [scaled(model, channels) for channels in (64, 128, 256, 512)]


def stem_kernel(model: ModelConfig) -> int:
    """Of a residual network's first convolution, one of `STEM_KERNELS`."""
    return STEM_KERNELS[model.stem or RESNET_STEMS[model.name]]


def vit_tokens(model: ModelConfig, data: DataConfig) -> int:
    """Patches of an image."""
    height, width, _ = data.image_shape
    return (height // model.patch) * (width // model.patch)


def layers(model: ModelConfig, data: DataConfig) -> list[Layer]:
    """Every layer of a model, in forward order.

    Raises:
      ConfigError: if the images or the norm do not suit the architecture.
    """
    add = {
        "cnn": _add_cnn,
        "linear": _add_mlp,
        "mlp": _add_mlp,
        "custom": _add_nothing,
        "resnet9": _add_resnet9,
        "resnet18": _add_resnet,
        "resnet50": _add_resnet,
        "vit_tiny": _add_vit,
    }[model.name]
    network = _Network(model, data)
    add(network, model, data)
    return network.layers


def _add_nothing(network: _Network, model: ModelConfig, data: DataConfig) -> None:
    """A custom model is described by its own files, which are read when it is built."""


def _add_mlp(network: _Network, model: ModelConfig, data: DataConfig) -> None:
    for i, (before, after) in enumerate(pairwise(dense_widths(model, data))):
        network.dense(f"dense.{i}", before, after)


def _add_cnn(network: _Network, model: ModelConfig, data: DataConfig) -> None:
    _refuse_small(model, data, 16)
    _add_convolutions(network, model, data)
    _add_mlp(network, model, data)


def _add_convolutions(network: _Network, model: ModelConfig, data: DataConfig) -> None:
    for i, channels in enumerate(model.channels):
        network.conv(
            f"conv.{i}", channels, CNN_KERNEL, padding=model.padding, bias=True
        )
        network.pool()


def _add_resnet9(network: _Network, model: ModelConfig, data: DataConfig) -> None:
    _refuse_small(model, data, 8)
    prep, *stages = resnet9_widths(model)
    network.conv_norm("prep.", prep, 3)
    for i, channels in enumerate(stages):
        network.conv_norm(f"stage.{i}.", channels, 3)
        network.pool()
        for j in range(0 if i == 1 else 2):
            network.conv_norm(f"stage.{i}.residual.{j}.", channels, 3)
    network.dense("head", stages[-1], outputs(data), bias=False)


def _add_resnet(network: _Network, model: ModelConfig, data: DataConfig) -> None:
    form, widths = RESNETS[model.name], resnet_widths(model)
    stem = stem_kernel(model)
    network.conv_norm("stem.", widths[0], stem, 2 if stem == 7 else 1)
    if stem == 7:
        network.pool(3, padding=1)
    for i, (width, blocks) in enumerate(zip(widths, form.blocks, strict=True)):
        for j in range(blocks):
            name, stride = f"stage.{i}.block.{j}.", 2 if i > 0 and j == 0 else 1
            last_scale = "zeros" if model.zero_init_residual else "ones"
            _add_residual(network, name, width, form.expansion, stride, last_scale)
    network.dense("head", widths[-1] * form.expansion, outputs(data))


def _add_residual(
    network: _Network,
    name: str,
    width: int,
    expansion: int,
    stride: int,
    last_scale: str,
) -> None:
    before, after = network.image, width * expansion
    # Channels, kernel and stride of each convolution.
    convolutions = [(width, 3, stride), (width, 3, 1)]
    if expansion > 1:
        convolutions = [(width, 1, 1), (width, 3, stride), (after, 1, 1)]
    for k, (channels, kernel, by) in enumerate(convolutions):
        network.conv(
            f"{name}conv.{k}", channels, kernel, stride=by, padding=kernel // 2
        )
        last = k == len(convolutions) - 1
        network.norm(f"{name}norm.{k}", last_scale if last else "ones")
    if stride != 1 or before[2] != after:
        network.image = before
        network.conv_norm(f"{name}shortcut.", after, 1, stride)


def _add_vit(network: _Network, model: ModelConfig, data: DataConfig) -> None:
    patch, (height, width, _) = model.patch, data.image_shape
    if height % patch or width % patch:
        raise ConfigError(
            f"model.patch={patch} does not divide images of {height}x{width}; "
            "choose a divisor of both"
        )
    if model.norm.name != "layer":
        raise ConfigError(
            f"model={model.name} normalises each token: "
            f"model.norm.name=layer, got {model.norm.name}"
        )
    head = scaled(model, 64)
    features, tokens = VIT_HEADS * head, vit_tokens(model, data)
    network.conv("patches", features, patch, stride=patch, bias=True, init="lecun")
    position = {"embedding": Leaf((tokens, features), "embedding")}
    network.layers.append(Layer(name="position", kind="position", leaves=position))

    def dense(name: str, before: int, after: int, bias: bool = True) -> None:
        network.dense(name, before, after, rows=tokens, bias=bias, init="glorot")

    for i in range(model.blocks):
        network.norm(f"block.{i}.norm.0")
        for name in "query", "key", "value":
            dense(f"block.{i}.attention.{name}", features, features, name != "key")
        for name in "scores", "mixture":
            network.product(f"block.{i}.attention.{name}", features * tokens**2)
        dense(f"block.{i}.attention.out", features, features)
        network.norm(f"block.{i}.norm.1")
        dense(f"block.{i}.mlp.0", features, VIT_MLP * features)
        dense(f"block.{i}.mlp.1", VIT_MLP * features, features)
    network.norm("norm")
    network.dense("head", features, outputs(data), init="glorot")


def _refuse_small(model: ModelConfig, data: DataConfig, least: int) -> None:
    height, width, _ = data.image_shape
    if min(height, width) < least:
        raise ConfigError(
            f"model={model.name} needs images of at least {least}x{least}, got "
            f"{height}x{width} from data.image_shape; use model=mlp or model=linear"
        )
