"""The groups that make an experiment: what is trained, on what, and how.

Its optimizer is in `recipe/optimizers.py`, how and where a run of it is carried out in
`recipe/execution.py`; `recipe_parts` in `recipe/config.py` says, key by key, what two
runs of the same experiment share.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from recipe.errors import ConfigError
from recipe.fields import at_least, expanded, fraction, one_of, positive

DATASETS = (
    "cifar10",
    "cifar100",
    "custom",
    "digits",
    "fashion_mnist",
    "line",
    "mnist",
    "synthetic",
)
SOURCES = ("tfds", "torchvision")
MODELS = (
    *("cnn", "linear", "mlp", "own", "resnet18", "resnet50", "resnet9", "vit_tiny"),
)
SCALED = ("resnet9", "resnet18", "resnet50", "vit_tiny")  # by model.width
DROPPING = ("cnn", "mlp", "vit_tiny")  # where model.dropout says so
NORMALISED = ("resnet9", "resnet18", "resnet50")  # as model.norm says
STEMS = ("cifar", "imagenet")
RESNET_STEMS = {"resnet18": "cifar", "resnet50": "imagenet"}  # each one's own
NORMS = ("batch", "group", "layer")
SCHEDULES = ("constant", "cosine", "one_cycle", "step")
PRECISIONS = ("bf16", "fp16", "fp32", "fp64", "tf32")


@dataclass(kw_only=True)
class AugmentConfig:
    """What happens to training images; `data/augment.py` draws, the twins apply."""

    pad_crop: int = 0  # pixels of black added on each side before a crop of full size
    flip: bool = False  # left to right, half of the time
    cutout: int = 0  # side in pixels of a square set to the mean

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
    root: str  # where datasets lie and are acquired to
    source: str = "torchvision"  # or tfds: who brings a published dataset here
    files: str | None = None  # custom: where its images are, `data/custom.py`
    label_offset: int = 0  # custom: the label of the first class
    image_shape: list[int]  # height, width, channels
    classes: int  # 0: one real target per example (regression)
    mean: list[float]  # per channel, or one for all; pixels in [0, 1]
    std: list[float]
    train_examples: int | None = None  # synthetic and line only; files fix the others
    test_examples: int | None = None
    noise: float = 0.0  # synthetic and line only: standard deviation, pixels in [0, 1]
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        one_of("data.name", self.name, DATASETS)
        one_of("data.source", self.source, SOURCES)
        if (self.name == "custom") != (self.files is not None):
            raise ConfigError(
                f"data.files={self.files} with data={self.name}: data=custom has "
                "files, and no other data does"
            )
        if self.files is not None:
            self.files = str(Path(expanded("data.files", self.files)).absolute())
        elif self.label_offset:
            raise ConfigError(
                f"data.label_offset={self.label_offset} is of data=custom; data="
                f"{self.name} counts its classes from 0, leave it out"
            )
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


@dataclass(kw_only=True)
class NormConfig:
    """How a model with normalisation layers normalises.

    batch: over examples and pixels; group: over pixels and a group of channels; layer:
    over the channels of each pixel or token.
    """

    name: str = "batch"
    sync: bool = True  # batch: over all devices' examples; false: over each device's
    momentum: float = 0.1  # batch: running = (1 - momentum) running + momentum batch's
    eps: float = 1e-5  # added to the variance
    groups: int = 32  # group: how many the channels are split into

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
    hidden: list[int] = field(default_factory=list)  # mlp and cnn: dense layers' widths
    folder: str | None = None  # own: where its three files are; docs/add-a-model.md
    width: float = 1.0  # residual networks and ViT: times their channels or features
    # resnet18, resnet50: whether blocks begin as identities, the last norm's scale at 0
    zero_init_residual: bool = False
    # resnet18, resnet50: cifar (3x3), or imagenet (7x7 that strides by 2, and max-pool)
    stem: str | None = None  # null: its own
    patch: int = 4  # vit: side of its patches in pixels
    blocks: int = 12  # vit: one after the other
    norm: NormConfig = field(default_factory=NormConfig)
    # cnn, mlp: share of the units of hidden dense layers, and vit: of those that each
    # block adds, that an example of a training step does without
    dropout: float = 0.0
    weights: str | None = None  # a file to start from; null draws them
    head: str | None = None  # new: the last layer is drawn, and not the file's

    def __post_init__(self) -> None:
        one_of("model.name", self.name, MODELS)
        if (self.name == "own") != (self.folder is not None):
            raise ConfigError(
                f"model.folder={self.folder} with model={self.name}: model=own has a "
                "folder, and no other model does"
            )
        self._check_dropout()
        self._check_weights()
        if self.folder is not None:
            folder = Path(expanded("model.folder", self.folder))
            self.folder = str(folder.absolute())
            return  # channels and hidden are what its files make of them
        convolutions = 2 if self.name == "cnn" else 0
        if len(self.channels) != convolutions or min(self.channels, default=1) < 1:
            raise ConfigError(
                f"model.channels of {self.name} must be "
                f"{'two positive numbers' if convolutions else 'empty'}, "
                f"got {self.channels}"
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
                "model.zero_init_residual=true is of the blocks of "
                f"{' and '.join(RESNET_STEMS)}; {self.name} has none, leave it out"
            )
        if self.name in RESNET_STEMS:
            self.stem = self.stem or RESNET_STEMS[self.name]
            one_of("model.stem", self.stem, STEMS)
        elif self.stem is not None:
            raise ConfigError(
                f"model.stem={self.stem} is of {' and '.join(RESNET_STEMS)}; "
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
                "layers are drawn, the head too; give model.weights=FILE, or leave it "
                "out"
            )

    def _check_dropout(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout must lie in [0, 1), got {self.dropout}")
        if self.dropout and self.name not in DROPPING:
            none = f"{self.name} has none, leave it at 0"
            if self.name == "own":
                none = (
                    "own takes nn.Dropout and nnx.Dropout at the rates that its "
                    "shapes.py gives (docs/own-layers.md), leave it at 0"
                )
            raise ConfigError(
                f"model.dropout={self.dropout} is of {', '.join(DROPPING)}; {none}"
            )
        if self.dropout and self.name != "vit_tiny" and not self.hidden:
            raise ConfigError(
                f"model.dropout={self.dropout} drops units of hidden layers, and "
                f"{self.name} has none here; give model.hidden, or leave it at 0"
            )


@dataclass(kw_only=True)
class ScheduleConfig:
    """How the learning rate moves; the formulas are in `recipe/schedule.py`."""

    name: str
    warmup_steps: int = 0  # optimizer steps; one_cycle rises by rise_fraction instead
    end_factor: float = 0.0  # cosine, one_cycle: the last learning rate over the peak
    start_factor: float = 0.04  # one_cycle: the first learning rate over the peak
    rise_fraction: float = 0.3  # one_cycle: of the run, until the peak
    milestones: list[float] = field(default_factory=list)  # step: fractions of the run
    drop_factor: float = 0.1  # step: what each milestone multiplies by

    def __post_init__(self) -> None:
        one_of("schedule.name", self.name, SCHEDULES)
        at_least("schedule.warmup_steps", self.warmup_steps, 0)
        fraction("schedule.end_factor", self.end_factor)
        fraction("schedule.start_factor", self.start_factor)
        fraction("schedule.rise_fraction", self.rise_fraction)
        fraction("schedule.drop_factor", self.drop_factor)
        for milestone in self.milestones:
            fraction("schedule.milestones", milestone)
        if self.name == "one_cycle" and self.warmup_steps:
            raise ConfigError(
                "schedule=one_cycle rises over schedule.rise_fraction of the run; "
                f"set schedule.warmup_steps=0, got {self.warmup_steps}"
            )
        if (self.name == "step") != bool(self.milestones):
            raise ConfigError(
                "schedule.milestones belong to schedule=step and only there, got "
                f"{self.milestones} with schedule={self.name}"
            )


@dataclass(kw_only=True)
class LossScaleConfig:
    """Dynamic loss scaling in torch's form, by torch's defaults."""

    initial: float = 65536.0
    growth: float = 2.0  # what the scale is multiplied by after `interval` finite steps
    backoff: float = 0.5  # what it is multiplied by after a step that was not finite
    interval: int = 2000  # optimizer steps

    def __post_init__(self) -> None:
        key = "precision.loss_scale"
        if not 0 < self.initial < math.inf:
            raise ConfigError(f"{key}.initial must be finite and > 0: {self.initial}")
        if not 1 < self.growth < math.inf:
            raise ConfigError(f"{key}.growth must be finite and > 1: {self.growth}")
        if not 0 < self.backoff < 1:
            raise ConfigError(f"{key}.backoff must lie in (0, 1): {self.backoff}")
        at_least(f"{key}.interval", self.interval, 1)


@dataclass(kw_only=True)
class PrecisionConfig:
    """What numbers are kept and computed in; `precision.py` of either twin says how.

    fp64 is the proof mode, fp32 true single precision, tf32 the same with matrix
    products on TF32 units; bf16 and fp16 compute in 16 bits and keep parameters in 32.
    """

    name: str
    loss_scale: LossScaleConfig | None = None  # null: the loss is not scaled

    def __post_init__(self) -> None:
        one_of("precision", self.name, PRECISIONS)
        if (self.loss_scale is None) == (self.name == "fp16"):
            raise ConfigError(
                f"precision={self.name} and precision.loss_scale={self.loss_scale}: "
                "fp16 has to have one, and no other precision needs it"
            )


@dataclass(kw_only=True)
class TunedConfig:
    """What suits an experiment, for the optim and schedule groups to take their own of.

    So `optim=adamw` finds its learning rate and `schedule=one_cycle` no warm-up,
    whichever the experiment uses itself.
    """

    sgd: float  # peak learning rates
    adamw: float
    warmup_steps: int = 0


@dataclass(kw_only=True)
class TaskConfig:
    """What an experiment's images and classes are like, for data=synthetic to match.

    So any experiment runs without a download.
    """

    image_shape: list[int] = field(default_factory=lambda: [28, 28, 1])
    classes: int = 10


@dataclass(kw_only=True)
class TrainConfig:
    """How long, in what batches, from which seed."""

    epochs: int | None = None
    steps: int | None = None  # optimizer steps; wins over epochs where both are given
    global_batch: int  # examples per optimizer step over all devices
    accumulate: int = 1  # micro-batches that a global batch is computed in
    label_smoothing: float = 0.0  # share of the target spread evenly over all classes
    seed: int = 0
    window_steps: int = 20  # losses are fetched, and time is taken, once per window
    # Seconds of steps that are timed after the last, in windows of equal time: they
    # change nothing that the training came to. null: none, and its own windows tell.
    timed_seconds: float | None = None
    evaluate_every_epochs: int = 1  # 0: only at the end
    # The control of a parity check, 0 for none: any other number moves each initial
    # weight one unit in the last place, and draws an order within each micro-batch.
    nudge: int = 0
    trace: int | None = None  # a step, from 1: it is recorded layer by layer, and ends

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ConfigError("give train.epochs or train.steps; both are null")
        at_least("train.epochs", self.epochs, 1)
        at_least("train.steps", self.steps, 1)
        at_least("train.global_batch", self.global_batch, 1)
        at_least("train.accumulate", self.accumulate, 1)
        at_least("train.seed", self.seed, 0)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"train.label_smoothing must lie in [0, 1), got {self.label_smoothing}"
            )
        at_least("train.window_steps", self.window_steps, 1)
        positive("train.timed_seconds", self.timed_seconds)
        if self.timed_seconds is not None and self.trace is not None:
            raise ConfigError(
                f"train.timed_seconds={self.timed_seconds:g} times steps after the "
                f"last, and train.trace={self.trace} ends the run with a step that "
                "is taken apart; set one of them to null"
            )
        at_least("train.evaluate_every_epochs", self.evaluate_every_epochs, 0)
        at_least("train.nudge", self.nudge, 0)
        at_least("train.trace", self.trace, 1)
        if self.trace and self.steps and self.trace > self.steps:
            raise ConfigError(
                f"train.trace={self.trace} is beyond the last step, {self.steps}; "
                f"trace one of 1 to {self.steps}, or raise train.steps"
            )
