"""The recipe's schema: what a run can be asked for, and what it refuses.

Hydra composes `conf/` into these dataclasses, so a key that is not here, or a value of
another type, is refused by name before anything starts. Each class checks its own
fields; what spans several of them is in `Config.__post_init__`, and what also needs the
number of devices in `check_world`.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe.architecture import RESNETS, layers
from recipe.errors import ConfigError
from recipe.own_model import check_own_model
from recipe.processes import Processes

DATASETS = (
    "cifar10",
    "cifar100",
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
NORMALISED = ("resnet9", "resnet18", "resnet50")  # as model.norm says
NORMS = ("batch", "group", "layer")
OPTIMIZERS = ("adamw", "sgd")
OPTIMIZER_KEYS = {
    "adamw": ("beta1", "beta2", "eps"),
    "sgd": ("momentum", "nesterov"),
}
SCHEDULES = ("constant", "cosine", "one_cycle", "step")
PRECISIONS = ("bf16", "fp16", "fp32", "fp64", "tf32")
PARALLEL = ("dp", "fsdp", "pmap")
TRACKERS = ("none", "tensorboard", "wandb")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value} is unknown; one of: {', '.join(allowed)}")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not least <= value < math.inf:
        finite = "finite and " if isinstance(value, float) else ""
        raise ConfigError(f"{key} must be {finite}at least {least}, got {value}")


def _expanded(key: str, path: str) -> str:
    """The path with ~ for a home replaced."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ConfigError(f"{key}={path}: {error}; write the path in full") from None


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _fraction(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{key} must lie in [0, 1], got {value}")


@dataclass(kw_only=True)
class AugmentConfig:
    """What happens to training images; `data/augment.py` draws, the twins apply."""

    pad_crop: int = 0  # pixels of black added on each side before a crop of full size
    flip: bool = False  # left to right, half of the time
    cutout: int = 0  # side in pixels of a square set to the mean

    def __post_init__(self) -> None:
        _at_least("data.augment.pad_crop", self.pad_crop, 0)
        _at_least("data.augment.cutout", self.cutout, 0)

    @property
    def any(self) -> bool:
        return bool(self.pad_crop or self.flip or self.cutout)


@dataclass(kw_only=True)  # none is frozen: Hydra could not override it
class DataConfig:
    """A dataset of uint8 NHWC images with labels; targets where `classes` is 0."""

    name: str = MISSING
    root: str = MISSING  # where datasets lie and are acquired to
    source: str = "torchvision"  # or tfds: who brings a published dataset here
    image_shape: list[int] = MISSING  # height, width, channels
    classes: int = MISSING  # 0: one real target per example (regression)
    mean: list[float] = MISSING  # per channel, or one for all; pixels in [0, 1]
    std: list[float] = MISSING
    train_examples: int | None = None  # synthetic and line only; files fix the others
    test_examples: int | None = None
    noise: float = 0.0  # synthetic and line only: standard deviation, pixels in [0, 1]
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _one_of("data.name", self.name, DATASETS)
        _one_of("data.source", self.source, SOURCES)
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
        _at_least("data.classes", self.classes, 0)
        _at_least("data.train_examples", self.train_examples, 1)
        _at_least("data.test_examples", self.test_examples, 1)
        _at_least("data.noise", self.noise, 0)
        self.root = _expanded("data.root", self.root)


def check_statistics(values: int) -> None:
    """Refuse a batch normalisation over a single value, whose variance is none.

    Args:
      values: of each channel, examples x pixels that the statistics are taken over.

    Raises:
      ConfigError: where a channel has one alone.
    """
    if values == 1:
        raise ConfigError(
            "batch normalisation over one value per channel has no variance: use a "
            "larger train.global_batch, fewer micro-batches or devices, "
            "model.norm.sync=true, or model.norm.name=group"
        )


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
        _one_of("model.norm.name", self.name, NORMS)
        if not 0 < self.momentum <= 1:
            raise ConfigError(
                f"model.norm.momentum must lie in (0, 1], got {self.momentum}"
            )
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"model.norm.eps must be finite and > 0, got {self.eps}")
        _at_least("model.norm.groups", self.groups, 1)


@dataclass(kw_only=True)
class ModelConfig:
    """An architecture by name; its outputs are `data.classes`, or one value."""

    name: str = MISSING
    channels: list[int] = field(default_factory=list)  # cnn: of its two convolutions
    hidden: list[int] = field(default_factory=list)  # mlp and cnn: dense layers' widths
    folder: str | None = None  # own: where its three files are; docs/add-a-model.md
    width: float = 1.0  # residual networks and ViT: times their channels or features
    # resnet18, resnet50: whether blocks begin as identities, the last norm's scale at 0
    zero_init_residual: bool = False
    patch: int = 4  # vit: side of its patches in pixels
    blocks: int = 12  # vit: one after the other
    norm: NormConfig = field(default_factory=NormConfig)
    weights: str | None = None  # a file to start from; null draws them

    def __post_init__(self) -> None:
        _one_of("model.name", self.name, MODELS)
        if (self.name == "own") != (self.folder is not None):
            raise ConfigError(
                f"model.folder={self.folder} with model={self.name}: model=own has a "
                "folder, and no other model does"
            )
        if self.folder is not None:
            folder = Path(_expanded("model.folder", self.folder))
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
        if self.zero_init_residual and self.name not in RESNETS:
            raise ConfigError(
                "model.zero_init_residual=true is of the blocks of "
                f"{' and '.join(RESNETS)}; {self.name} has none, leave it out"
            )
        if not 0 < self.width < math.inf:
            raise ConfigError(f"model.width must be finite and > 0, got {self.width}")
        if self.width != 1 and self.name not in SCALED:
            raise ConfigError(
                f"model.width={self.width} scales {', '.join(SCALED)}; "
                f"{self.name} takes model.hidden and model.channels, leave it at 1"
            )
        _at_least("model.patch", self.patch, 1)
        _at_least("model.blocks", self.blocks, 1)
        if self.weights is not None:
            self.weights = _expanded("model.weights", self.weights)


@dataclass(kw_only=True)
class OptimConfig:
    """SGD or AdamW, both as torch writes them; `optim.py` of either twin has them.

    SGD's decay enters the gradient before momentum (coupled), AdamW's is multiplied by
    the learning rate alone (decoupled).
    """

    name: str = MISSING
    peak_lr: float = MISSING  # at the global batch; never rescaled silently
    momentum: float = 0.0  # sgd
    nesterov: bool = False  # sgd
    beta1: float = 0.9  # adamw
    beta2: float = 0.999  # adamw
    eps: float = 1e-8  # adamw; added to the root of the corrected second moment
    weight_decay: float = 0.0
    decay: str = "kernels"  # which parameters decay: kernels, or all of them
    clip_norm: float | None = None  # 2-norm that the global gradient is scaled down to
    # false: gradients are computed and not applied, to time the same step without the
    # optimizer; no training of anything.
    update: bool = True

    def __post_init__(self) -> None:
        _one_of("optim.name", self.name, OPTIMIZERS)
        if not 0 < self.peak_lr < math.inf:
            raise ConfigError(
                f"optim.peak_lr must be finite and > 0, got {self.peak_lr}"
            )
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"optim.momentum must lie in [0, 1), got {self.momentum}")
        if self.nesterov and self.momentum == 0:
            raise ConfigError(
                "optim.nesterov=true needs optim.momentum > 0, got 0; "
                "set optim.momentum=0.9 or optim.nesterov=false"
            )
        for key, beta in ("beta1", self.beta1), ("beta2", self.beta2):
            if not 0 <= beta < 1:
                raise ConfigError(f"optim.{key} must lie in [0, 1), got {beta}")
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"optim.eps must be finite and > 0, got {self.eps}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ConfigError(
                f"optim.clip_norm must be finite and > 0, got {self.clip_norm}; "
                "null does not clip"
            )
        for of, keys in OPTIMIZER_KEYS.items():
            for key in keys:
                given, default = getattr(self, key), getattr(OptimConfig, key)
                if of != self.name and given != default:
                    raise ConfigError(
                        f"optim.{key}={given} has no meaning with optim={self.name}; "
                        f"leave it out, or use optim={of}"
                    )
        _at_least("optim.weight_decay", self.weight_decay, 0)
        _one_of("optim.decay", self.decay, ("all", "kernels"))


@dataclass(kw_only=True)
class ScheduleConfig:
    """How the learning rate moves; the formulas are in `recipe/schedule.py`."""

    name: str = MISSING
    warmup_steps: int = 0  # optimizer steps; one_cycle rises by rise_fraction instead
    end_factor: float = 0.0  # cosine, one_cycle: the last learning rate over the peak
    start_factor: float = 0.04  # one_cycle: the first learning rate over the peak
    rise_fraction: float = 0.3  # one_cycle: of the run, until the peak
    milestones: list[float] = field(default_factory=list)  # step: fractions of the run
    drop_factor: float = 0.1  # step: what each milestone multiplies by

    def __post_init__(self) -> None:
        _one_of("schedule.name", self.name, SCHEDULES)
        _at_least("schedule.warmup_steps", self.warmup_steps, 0)
        _fraction("schedule.end_factor", self.end_factor)
        _fraction("schedule.start_factor", self.start_factor)
        _fraction("schedule.rise_fraction", self.rise_fraction)
        _fraction("schedule.drop_factor", self.drop_factor)
        for milestone in self.milestones:
            _fraction("schedule.milestones", milestone)
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
        _at_least(f"{key}.interval", self.interval, 1)


@dataclass(kw_only=True)
class PrecisionConfig:
    """What numbers are kept and computed in; `precision.py` of either twin says how.

    fp64 is the proof mode, fp32 true single precision, tf32 the same with matrix
    products on TF32 units; bf16 and fp16 compute in 16 bits and keep parameters in 32.
    """

    name: str = MISSING
    loss_scale: LossScaleConfig | None = None  # null: the loss is not scaled

    def __post_init__(self) -> None:
        _one_of("precision", self.name, PRECISIONS)
        if (self.loss_scale is None) == (self.name == "fp16"):
            raise ConfigError(
                f"precision={self.name} and precision.loss_scale={self.loss_scale}: "
                "fp16 has to have one, and no other precision needs it"
            )


@dataclass(kw_only=True)
class ParallelConfig:
    """How devices share the work.

    dp: torch DDP, JAX jit over a mesh.  pmap: JAX's older way to the same.  fsdp: so
    that each device keeps a share of the parameters and of the optimizer's state.
    """

    name: str = MISSING
    # false: each device trains on its share as if it were alone, to time the same step
    # without the exchange of gradients; no training of anything.
    exchange: bool = True
    # Seconds after which the ranks are ended: that one may give no sign of life, or
    # that a window may take, though always ten times the longest so far.
    timeout_seconds: float = 300.0
    # That they may take to meet, to start, for their first window and an evaluation.
    start_timeout_seconds: float = 3600.0

    def __post_init__(self) -> None:
        _one_of("parallel", self.name, PARALLEL)
        if not self.exchange and self.name != "dp":
            raise ConfigError(
                f"parallel.exchange=false leaves out what parallel=dp does, got "
                f"parallel={self.name}; leave one of them out"
            )
        _at_least("parallel.timeout_seconds", self.timeout_seconds, 1.0)
        if not self.timeout_seconds <= self.start_timeout_seconds < math.inf:
            raise ConfigError(
                "parallel.start_timeout_seconds must be finite and at least "
                f"parallel.timeout_seconds={self.timeout_seconds}, got "
                f"{self.start_timeout_seconds}"
            )


@dataclass(kw_only=True)
class TrackingConfig:
    """Where the record is mirrored to, beside the run folder."""

    name: str = MISSING
    project: str = "duet"
    entity: str | None = None
    group: str | None = None  # default: the experiment's name
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _one_of("tracking", self.name, TRACKERS)


@dataclass(kw_only=True)
class TunedConfig:
    """What suits an experiment, for the optim and schedule groups to take their own of.

    So `optim=adamw` finds its learning rate and `schedule=one_cycle` no warm-up,
    whichever the experiment uses itself.
    """

    sgd: float = MISSING  # peak learning rates
    adamw: float = MISSING
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
    global_batch: int = MISSING  # examples per optimizer step over all devices
    accumulate: int = 1  # micro-batches that a global batch is computed in
    label_smoothing: float = 0.0  # share of the target spread evenly over all classes
    seed: int = 0
    window_steps: int = 20  # losses are fetched, and time is taken, once per window
    evaluate_every_epochs: int = 1  # 0: only at the end
    # The control of a parity check: 0 leaves the initial weights alone; any other
    # number moves each of them one unit in the last place, seeded by this number.
    nudge: int = 0
    trace: int | None = None  # a step, from 1: it is recorded layer by layer, and ends

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ConfigError("give train.epochs or train.steps; both are null")
        _at_least("train.epochs", self.epochs, 1)
        _at_least("train.steps", self.steps, 1)
        _at_least("train.global_batch", self.global_batch, 1)
        _at_least("train.accumulate", self.accumulate, 1)
        _at_least("train.seed", self.seed, 0)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"train.label_smoothing must lie in [0, 1), got {self.label_smoothing}"
            )
        _at_least("train.window_steps", self.window_steps, 1)
        _at_least("train.evaluate_every_epochs", self.evaluate_every_epochs, 0)
        _at_least("train.nudge", self.nudge, 0)
        _at_least("train.trace", self.trace, 1)
        if self.trace and self.steps and self.trace > self.steps:
            raise ConfigError(
                f"train.trace={self.trace} is beyond the last step, {self.steps}; "
                f"trace one of 1 to {self.steps}, or raise train.steps"
            )


@dataclass(kw_only=True)
class CheckpointConfig:
    """When a run saves all that it needs to go on, and how many of these it keeps."""

    every_steps: int | None = None  # optimizer steps; null: not by steps
    every_minutes: float | None = 10.0  # since the last one; null: not by time
    keep: int = 2  # the newest; that with the best test score is kept beside them

    def __post_init__(self) -> None:
        _at_least("checkpoint.every_steps", self.every_steps, 1)
        _at_least("checkpoint.every_minutes", self.every_minutes, 0)
        _at_least("checkpoint.keep", self.keep, 1)


@dataclass(kw_only=True)
class RunConfig:
    """Where the record goes, and whether it goes on from one that is there."""

    dir: str | None = None  # default: runs/<experiment>-<framework>-<UTC time>
    # auto: where `dir` holds a run that was cut short, go on with it; never: refuse it;
    # or the path of a run folder or of one of its checkpoints.
    resume: str = "auto"
    resume_anyway: bool = False  # though seed, data or recipe are others; recorded

    def __post_init__(self) -> None:
        if self.dir == "":
            raise ConfigError("run.dir is empty; give a folder, or leave it out")
        if self.dir is not None:
            self.dir = _expanded("run.dir", self.dir)
        if not self.resume:
            raise ConfigError(
                "run.resume is empty; give auto, never, or the path of a run folder "
                "or checkpoint"
            )
        if self.resume not in ("auto", "never"):
            self.resume = _expanded("run.resume", self.resume)


@dataclass(kw_only=True)
class Config:
    """One run, whole."""

    name: str = MISSING  # the experiment's
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    optim: OptimConfig = MISSING
    schedule: ScheduleConfig = MISSING
    precision: PrecisionConfig = MISSING
    parallel: ParallelConfig = MISSING
    tracking: TrackingConfig = MISSING
    tuned: TunedConfig = MISSING
    task: TaskConfig = field(default_factory=TaskConfig)
    train: TrainConfig = MISSING
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    run: RunConfig = MISSING
    devices: int | None = None  # of the whole run; default: one for each process
    platform: str = "auto"  # auto: a GPU where there is one, else the CPU
    deterministic: bool = False  # only kernels that give the same bits every time
    compile: bool = False  # PyTorch's model by torch.compile; JAX's steps always are
    profile: bool = False  # each rank traces the last window, for Perfetto

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]{1,60}", self.name) or self.name.startswith("."):
            raise ConfigError(
                f"name={self.name} must be 1 to 60 letters, digits, and _ . - "
                "since folders and trackers are named by it"
            )
        _at_least("devices", self.devices, 1)
        _one_of("platform", self.platform, ("auto", "cpu", "gpu"))
        if self.train.label_smoothing and not self.data.classes:
            raise ConfigError(
                f"train.label_smoothing={self.train.label_smoothing} needs classes, "
                f"data={self.data.name} has none; set it to 0"
            )
        height, width, _ = self.data.image_shape
        if self.data.augment.cutout >= min(height, width):
            raise ConfigError(
                f"data.augment.cutout={self.data.augment.cutout} leaves nothing of "
                f"images of {height}x{width}; take less than {min(height, width)}"
            )
        layers(self)  # refuses what the architecture cannot take


@dataclass(kw_only=True)
class ParityConfig(Config):
    """A parity check: the run above, in both frameworks, at each world size.

    Or, with `trace`, one step of both taken apart; or, with `a` and `b`, two finished
    runs held together without training any.
    """

    world_sizes: Any = field(default_factory=lambda: [1, 2])  # Any: refused in words
    trace: int | None = None  # a step, from 1
    a: str | None = None  # run folders
    b: str | None = None
    controls: int = 4  # nudged runs of each framework, where the precision needs them
    # How JAX takes N devices: one process with N of them, or N processes.
    jax_layouts: list[str] = field(default_factory=lambda: ["devices", "processes"])
    timeout_seconds: int = 1800  # of each training

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.world_sizes
        if not isinstance(sizes, list) or not sizes or not all(map(_counts, sizes)):
            raise ConfigError(
                "world_sizes must be a list of positive whole numbers, got "
                f"{sizes}; write world_sizes=[1,2,4]"
            )
        for layout in self.jax_layouts:
            _one_of("jax_layouts", layout, ("devices", "processes"))
        if not self.jax_layouts:
            raise ConfigError("jax_layouts is empty; use devices, processes or both")
        _at_least("controls", self.controls, 1)
        _at_least("timeout_seconds", self.timeout_seconds, 1)
        if self.devices is not None:
            raise ConfigError("parity takes world_sizes=[...] instead of devices")
        if self.train.nudge:
            raise ConfigError("parity nudges its own controls; leave train.nudge at 0")
        if self.train.trace:
            raise ConfigError("parity takes trace=STEP instead of train.trace")
        if missing := ablated(self):
            raise ConfigError(
                f"parity compares trainings, and without {' and '.join(missing)} there "
                "is none; leave it at true"
            )
        if self.run.resume != "auto" or self.run.resume_anyway:
            raise ConfigError(
                "parity trains all its runs anew; leave run.resume at auto and "
                "run.resume_anyway at false"
            )
        # What is refused of a single run's trace is refused here, before any starts.
        self.train = replace(self.train, trace=self.trace)
        if bool(self.a) != bool(self.b) or "" in (self.a, self.b):
            missing = "a" if not self.a else "b"
            raise ConfigError(
                f"a= and b= are two run folders to be compared; {missing}= is missing"
            )
        if self.a is not None and self.trace:
            raise ConfigError(
                "a= and b= compare finished runs, trace= trains; give one or the other"
            )


def to_config(composed: DictConfig, schema: type[Config] = Config) -> Any:
    """The composed config as checked dataclasses.

    Raises:
      ConfigError: naming the key, what it was given, and what is allowed.
    """
    # Unresolved, since OmegaConf stops at the first reference to a missing value.
    missing = sorted(_missing(OmegaConf.to_container(composed)))
    if missing:
        raise ConfigError(
            f"the config leaves {', '.join(missing)} without a value; "
            "give it on the command line or choose an experiment that sets it"
        )
    try:
        config = OmegaConf.to_object(composed)
    except ConfigError:
        raise
    except OmegaConfBaseException as error:  # such as a reference to nothing
        raise ConfigError(str(error).partition("\n")[0]) from error
    assert isinstance(config, schema)
    return config


def _missing(node: Any, key: str = "") -> list[str]:
    """Keys below a plain node that have no value."""
    if isinstance(node, dict):
        return [m for k, v in node.items() for m in _missing(v, f"{key}.{k}")]
    return [key.removeprefix(".")] if node == MISSING else []


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Every key of a dataclass of dataclasses: `train` and `train.steps`."""
    keys = []
    for name, kind in get_type_hints(schema).items():
        keys.append(f"{prefix}{name}")
        for part in get_args(kind) or (kind,):  # of a union, such as with None
            if is_dataclass(part):
                keys += known_keys(cast(type, part), f"{prefix}{name}.")
    return keys


def unknown_keys(composed: DictConfig, schema: type[Config]) -> list[str]:
    """Keys that the schema does not have, which `to_config` would leave behind."""

    def keys(node: Any, prefix: str = "") -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            yield f"{prefix}{key}"
            yield from keys(value, f"{prefix}{key}.")

    known = set(known_keys(schema))
    return [key for key in keys(OmegaConf.to_container(composed)) if key not in known]


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of all that a nested dictionary holds: `train.steps`, 100."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_yaml(config: Config) -> str:
    """The resolved config, as `config.yaml` in the run folder holds it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(text: str) -> Config:
    """The inverse of `to_yaml`, checked again.

    Raises:
      ConfigError: if the text is no YAML, or no config of this schema.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text))
        assert isinstance(merged, DictConfig)  # of a dataclass and whatever merged
        return to_config(merged)
    except ConfigError:
        raise
    # What YAML's constructors raise for a text made to break them is not one family.
    except (
        OmegaConfBaseException,
        YAMLError,
        AssertionError,
        RecursionError,
        ValueError,
    ) as error:
        raise ConfigError(str(error) or "no mapping of keys to values") from error


def recipe_hash(config: Config) -> str:
    """SHA-256 of what makes two runs the same experiment, `recipe_parts`."""
    parts = json.dumps(recipe_parts(config), sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def recipe_parts(config: Config) -> dict[str, Any]:
    """What makes two runs the same experiment, nested as the config is.

    Where a run happens does not count: devices, platform, kernels, parallel strategy,
    trackers, folders. Nor do the measuring window, the control's nudge and what is
    traced.
    """
    recipe = asdict(config)
    del recipe["tuned"], recipe["task"]  # what was taken of them is in other groups
    for place in (
        "devices",
        "platform",
        "deterministic",
        "compile",
        "parallel",
        "tracking",
        "checkpoint",
        "run",
        "profile",
    ):
        del recipe[place]
    # Nor who brought the data: the record has its fingerprint.
    del recipe["data"]["root"], recipe["data"]["source"]
    if config.model.folder is not None:
        recipe["model"]["folder"] = Path(config.model.folder).name
    for look in ("window_steps", "nudge", "trace"):
        del recipe["train"][look]
    del recipe["optim"]["update"]
    for key in ablated(config):  # then it is no training, and like no other
        group, name = key.split(".")
        recipe.setdefault(group, {})[name] = False
    return recipe


def ablated(config: Config) -> list[str]:
    """Keys of the parts that a step leaves out, so that what it saves is their time.

    A run without any part of its step is no training.
    """
    parts = {
        "parallel.exchange": config.parallel.exchange,
        "optim.update": config.optim.update,
    }
    return [key for key, kept in parts.items() if not kept]


def identity_parts(config: Config) -> dict[str, Any]:
    """What a resumed run must share with the one it continues, nested by key.

    The recipe, and the nudge of the initial weights, that a hash of recipes leaves out.
    """
    parts = recipe_parts(config)
    parts["train"] = {**parts["train"], "nudge": config.train.nudge}
    return parts


def has_local_norm(config: Config) -> bool:
    """Whether each device normalises over its own examples, so that their number tells.

    A resumed run must then have as many as the one it continues.
    """
    norm = config.model.norm
    of_batch = config.model.name in NORMALISED and norm.name == "batch"
    return of_batch and not norm.sync


def world_size(config: Config, processes: Processes) -> int:
    """Devices of the whole run: `devices`, else one for each process."""
    return processes.count if config.devices is None else config.devices


def check_world(config: Config, processes: Processes) -> None:
    """Refuse what cannot be divided, before any process group or file exists.

    Raises:
      ConfigError: quoting the numbers and the nearest that would do.
    """
    check_own_model(config.model.folder)
    devices = world_size(config, processes)
    if config.train.trace and (devices > 1 or config.parallel.name != "dp"):
        raise ConfigError(
            f"train.trace={config.train.trace} looks at one device under parallel=dp, "
            f"got {devices} under parallel={config.parallel.name}; leave both out"
        )
    if config.train.trace and config.train.accumulate > 1:
        raise ConfigError(
            f"train.trace={config.train.trace} takes a whole batch apart, which "
            f"train.accumulate={config.train.accumulate} never computes at once; "
            "leave that out"
        )
    if devices % processes.count:
        raise ConfigError(
            f"devices={devices} does not divide over {processes.count} processes; "
            f"use a multiple of {processes.count}"
        )
    batch, parts = config.train.global_batch, config.train.accumulate
    share = devices * parts
    accumulate = f" x train.accumulate={parts}" if parts > 1 else ""
    if batch % share:
        below, above = batch // share * share, -(-batch // share) * share
        nearest = f"nearest that do: {below}, {above}" if below else f"use {above}"
        raise ConfigError(
            f"train.global_batch={batch} does not divide over world_size={devices}"
            f"{accumulate}; {nearest}"
        )
    norm = config.model.norm
    alone = batch // (parts if norm.sync else share) == 1
    if config.model.name in NORMALISED and norm.name == "batch" and alone:
        raise ConfigError(
            f"train.global_batch={batch} over world_size={devices}{accumulate} leaves "
            f"batch normalisation with model.norm.sync={str(norm.sync).lower()} one "
            "example to take its statistics over; it needs two: use a larger "
            "train.global_batch, "
            + ("" if norm.sync else "model.norm.sync=true, ")
            + "or model.norm.name=group"
        )
