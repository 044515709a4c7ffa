"""The groups that make an experiment: what is trained, and on what.

How it is trained is in `recipe/training.py`, its optimizer in `recipe/optimizers.py`,
how and where it executes in `recipe/execution.py`; `recipe_parts` in `recipe/config.py`
lists the keys that define an experiment.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from recipe.errors import ConfigError
from recipe.fields import at_least, expanded, one_of

DATASETS = (
    "cifar10",
    "cifar100",
    "custom",
    "digits",
    "fashion_mnist",
    "folder",
    "line",
    "mnist",
    "synthetic",
)
SOURCES = ("tfds", "torchvision")
FILES = ("custom", "folder")  # datasets of the user's files
RESIZES = ("crop", "none", "stretch")
SPLIT = {"test_fraction": 0.2, "split_seed": 0}  # of data=folder, and the defaults
MODELS = (
    *("cnn", "custom", "linear", "mlp", "resnet18", "resnet50", "resnet9", "vit_tiny"),
)
SCALED = ("resnet9", "resnet18", "resnet50", "vit_tiny")  # by model.width
DROPPING = ("cnn", "mlp", "vit_tiny")  # where model.dropout says so
NORMALISED = ("resnet9", "resnet18", "resnet50")  # as model.norm says
STEMS = ("cifar", "imagenet")
RESNET_STEMS = {"resnet18": "cifar", "resnet50": "imagenet"}  # a default for each model
NORMS = ("batch", "group", "layer")


@dataclass(kw_only=True)
class AugmentConfig:
    """Augmentation of training images; see `data/augment.py`."""

    pad_crop: int = 0  # pixels of black added on each side before a crop of full size
    flip: bool = False  # flip half of the training images horizontally
    # Side in pixels of a square in each training image that is set to the mean.
    cutout: int = 0

    def __post_init__(self) -> None:
        at_least("data.augment.pad_crop", self.pad_crop, 0)
        at_least("data.augment.cutout", self.cutout, 0)

    @property
    def any(self) -> bool:
        return bool(self.pad_crop or self.flip or self.cutout)


@dataclass(kw_only=True)  # none is frozen: Hydra could not override it
class DataConfig:
    """A dataset of uint8 NHWC images with labels; targets where `classes` is 0."""

    name: str
    root: str  # where datasets are looked for and stored
    # Which package acquires a published dataset, `torchvision` or `tfds`; the arrays
    # are the same.
    source: str = "torchvision"
    files: str | None = None  # custom and folder: where the images are
    label_offset: int = 0  # custom: the label of the first class
    # Names of the classes in order of their numbers, for predictions; `null`: those of
    # a published dataset, else numbers. folder: `null` takes what it finds, sorted.
    class_names: list[str] | None = None
    # folder and predictions: image files of another size are resized by `stretch`, or
    # `crop` (the largest centred part of the same aspect ratio), or refused (`none`).
    resize: str = "stretch"
    # folder without test images: fraction of each class that is for testing.
    test_fraction: float = 0.2
    split_seed: int = 0  # folder without test images: chooses them
    image_shape: list[int]  # height, width, channels
    classes: int  # 0: one real target per example (regression)
    # Mean of pixels in [0, 1], for normalisation; one for each channel, or one for all.
    mean: list[float]
    std: list[float]  # their standard deviation, likewise
    # synthetic and line: how many there are. Of other data so many are used, as evenly
    # from all classes as there are, each class's first; `null`: all.
    train_examples: int | None = None
    test_examples: int | None = None  # synthetic and line
    noise: float = 0.0  # synthetic and line: its standard deviation, pixels in [0, 1]
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        one_of("data.name", self.name, DATASETS)
        one_of("data.source", self.source, SOURCES)
        self._check_files()
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ConfigError(
                "data.image_shape must be [height, width, channels], "
                f"each at least 1, got {self.image_shape}"
            )
        channels = self.image_shape[2]
        self.mean, self.std = (
            values * channels if len(values) == 1 else values
            for values in (self.mean, self.std)
        )
        for key, values in ("data.mean", self.mean), ("data.std", self.std):
            if len(values) != channels:
                raise ConfigError(
                    f"{key} needs one number for each of {channels} channels, "
                    f"got {values}"
                )
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"data.mean must be finite, got {self.mean}")
        if not all(0 < std < math.inf for std in self.std):
            raise ConfigError(f"data.std must be finite and > 0, got {self.std}")
        if not self.root:
            raise ConfigError("data.root is empty; give a folder, or unset DUET_DATA")
        at_least("data.classes", self.classes, 0)
        at_least("data.train_examples", self.train_examples, 1)
        at_least("data.test_examples", self.test_examples, 1)
        at_least("data.noise", self.noise, 0)
        self.root = expanded("data.root", self.root)
        self._check_class_names()

    def _check_files(self) -> None:
        if (self.name in FILES) != (self.files is not None):
            raise ConfigError(
                f"data.files={self.files} with data={self.name}: data=custom and "
                "data=folder have files, and no other data does"
            )
        if self.files is not None:
            self.files = str(Path(expanded("data.files", self.files)).absolute())
        if self.name != "custom" and self.label_offset:
            raise ConfigError(
                f"data.label_offset={self.label_offset} is for data=custom; data="
                f"{self.name} numbers its classes from 0, leave it out"
            )
        for key, default in SPLIT.items():
            if self.name != "folder" and getattr(self, key) != default:
                raise ConfigError(
                    f"data.{key}={getattr(self, key)} is for data=folder; data="
                    f"{self.name} has its own test images, leave it out"
                )
        one_of("data.resize", self.resize, RESIZES)
        if not 0 < self.test_fraction < 1:
            raise ConfigError(
                f"data.test_fraction must lie in (0, 1), got {self.test_fraction}"
            )
        at_least("data.split_seed", self.split_seed, 0)
        if self.name == "folder" and self.image_shape[2:] not in ([1], [3]):
            raise ConfigError(
                "data=folder reads images as grey or RGB: data.image_shape must be "
                f"[height, width, 1] or [height, width, 3], got {self.image_shape}"
            )
        if self.name == "folder" and not self.classes:
            raise ConfigError("data=folder has classes, got data.classes=0")

    def _check_class_names(self) -> None:
        names = self.class_names
        if names is not None and not len(names) == len({*names}) == self.classes:
            raise ConfigError(
                f"data.class_names needs {self.classes} different names, one for each "
                f"of data.classes, got {names}"
            )


@dataclass(kw_only=True)
class NormConfig:
    """The normalisation layers of a model that has any.

    batch: over examples and pixels; group: over pixels and a group of channels; layer:
    over the channels of each pixel or token.
    """

    name: str = "batch"  # `batch`, `group` or `layer`; the ViT takes `layer`
    # batch: statistics over the global batch. false: over each device's part of it; the
    # first device's running statistics are then evaluated and recorded.
    sync: bool = True
    # batch, in torch's convention: running = (1 - momentum) running + momentum batch's.
    momentum: float = 0.1
    eps: float = 1e-5  # added to the variance
    groups: int = 32  # group: number of groups of channels

    def __post_init__(self) -> None:
        one_of("model.norm.name", self.name, NORMS)
        if not 0 < self.momentum <= 1:
            raise ConfigError(
                f"model.norm.momentum must lie in (0, 1], got {self.momentum}"
            )
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"model.norm.eps must be finite and > 0, got {self.eps}")
        at_least("model.norm.groups", self.groups, 1)


@dataclass(kw_only=True)
class ModelConfig:
    """An architecture by name; its outputs are `data.classes`, or one value."""

    name: str
    channels: list[int] = field(default_factory=list)  # cnn: of its two convolutions
    hidden: list[int] = field(default_factory=list)  # mlp, cnn: dense layers' widths
    padding: int = 0  # cnn: pixels of zeros around the input of each convolution
    folder: str | None = None  # custom: folder of its three files; docs/add-a-model.md
    width: float = 1.0  # residual networks and ViT: times their channels or features
    # resnet18, resnet50: blocks start as identities, their last norm's scale at 0
    # (Goyal et al. 2017).
    zero_init_residual: bool = False
    # resnet18, resnet50: `cifar`, 3x3 without max-pool, or `imagenet`, 7x7 with stride
    # 2 and max-pool, as torchvision's; `null`: the model's default.
    stem: str | None = None
    patch: int = 4  # ViT: side of a patch in pixels
    blocks: int = 12  # ViT: transformer blocks
    norm: NormConfig = field(default_factory=NormConfig)
    # mlp, cnn: dropout rate after the ReLU of each hidden dense layer; masks differ by
    # example and epoch. ViT: of the outputs of attention and MLP in each block. Kept
    # units are scaled by 1/(1 - rate); evaluation drops nothing. A custom model defines
    # its own layers and rates (docs/own-layers.md).
    dropout: float = 0.0
    weights: str | None = None  # a file to start from; `null`: drawn from `train.seed`
    # `new`: the last layer is drawn rather than loaded, for a file with other classes.
    head: str | None = None

    def __post_init__(self) -> None:
        one_of("model.name", self.name, MODELS)
        if (self.name == "custom") != (self.folder is not None):
            raise ConfigError(
                f"model.folder={self.folder} with model={self.name}: model=custom has "
                "a folder, and no other model does"
            )
        self._check_dropout()
        self._check_weights()
        if self.folder is not None:
            folder = Path(expanded("model.folder", self.folder))
            self.folder = str(folder.absolute())
            return  # a custom model uses channels and hidden as it likes
        convolutions = 2 if self.name == "cnn" else 0
        if len(self.channels) != convolutions or min(self.channels, default=1) < 1:
            raise ConfigError(
                f"model.channels of {self.name} must be "
                f"{'two positive numbers' if convolutions else 'empty'}, "
                f"got {self.channels}"
            )
        at_least("model.padding", self.padding, 0)
        if self.padding and not convolutions:
            raise ConfigError(
                f"model.padding={self.padding} is for the convolutions of cnn; model="
                f"{self.name} takes none, leave it at 0"
            )
        dense = self.name in ("cnn", "mlp")
        if min(self.hidden, default=1) < 1 or (self.hidden and not dense):
            raise ConfigError(
                f"model.hidden of {self.name} must be "
                f"{'positive widths' if dense else 'empty'}, "
                f"got {self.hidden}"
            )
        if self.zero_init_residual and self.name not in RESNET_STEMS:
            raise ConfigError(
                "model.zero_init_residual=true is for the blocks of "
                f"{' and '.join(RESNET_STEMS)}; {self.name} has none, leave it out"
            )
        if self.name in RESNET_STEMS:
            self.stem = self.stem or RESNET_STEMS[self.name]
            one_of("model.stem", self.stem, STEMS)
        elif self.stem is not None:
            raise ConfigError(
                f"model.stem={self.stem} is for {' and '.join(RESNET_STEMS)}; "
                f"{self.name} has none, leave it out"
            )
        if not 0 < self.width < math.inf:
            raise ConfigError(f"model.width must be finite and > 0, got {self.width}")
        if self.width != 1 and self.name not in SCALED:
            raise ConfigError(
                f"model.width={self.width} scales {', '.join(SCALED)}; "
                f"{self.name} takes model.hidden and model.channels, leave it at 1"
            )
        at_least("model.patch", self.patch, 1)
        at_least("model.blocks", self.blocks, 1)

    def _check_weights(self) -> None:
        if self.weights is not None:
            self.weights = expanded("model.weights", self.weights)
        if self.head is None:
            return
        one_of("model.head", self.head, ("new",))
        if self.weights is None:
            raise ConfigError(
                f"model.head={self.head} without model.weights: without a file all "
                "layers are drawn, including the head; give model.weights=FILE, or "
                "leave it "
                "out"
            )

    def _check_dropout(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout must lie in [0, 1), got {self.dropout}")
        if self.dropout and self.name not in DROPPING:
            none = f"{self.name} has none, leave it at 0"
            if self.name == "custom":
                none = (
                    "a custom model's rates are in its shapes.py (docs/own-layers.md), "
                    "leave it at 0"
                )
            raise ConfigError(
                f"model.dropout={self.dropout} is for {', '.join(DROPPING)}; {none}"
            )
        if self.dropout and self.name != "vit_tiny" and not self.hidden:
            raise ConfigError(
                f"model.dropout={self.dropout} drops units of hidden layers, and "
                f"{self.name} has none here; give model.hidden, or leave it at 0"
            )


@dataclass(kw_only=True)
class TunedConfig:
    """An experiment's tuned values; the chosen optimizer and schedule refer to them.

    So `optim=adamw` gets its learning rate and `schedule=one_cycle` no warm-up,
    whichever the experiment uses by default.
    """

    sgd: float  # peak learning rate
    adamw: float  # peak learning rate
    warmup_steps: int = 0  # optimizer steps


@dataclass(kw_only=True)
class TaskConfig:
    """The shape of an experiment's images and its classes, matched by `data=synthetic`.

    So any experiment runs without a download.
    """

    image_shape: list[int] = field(
        default_factory=lambda: [28, 28, 1]
    )  # as `data.image_shape`
    classes: int = 10  # as `data.classes`
