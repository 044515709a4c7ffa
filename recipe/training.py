"""The config groups of how an experiment is trained: batches, schedule, precision."""

import math
from dataclasses import dataclass, field

from recipe.errors import ConfigError
from recipe.fields import at_least, fraction, one_of, positive

SCHEDULES = ("constant", "cosine", "one_cycle", "step")
PRECISIONS = ("bf16", "fp16", "fp32", "fp64", "tf32")


@dataclass(kw_only=True)
class TrainConfig:
    """The length of training, its batches and its seed."""

    epochs: int | None = None  # passes over the training set
    steps: int | None = None  # optimizer steps; wins over epochs where both are given
    # Examples per optimizer step over all devices; must divide by their number. The
    # learning rate is never rescaled.
    global_batch_size: int
    # Micro-batches that a global batch is computed in, one after the other, to save
    # memory; `train.global_batch_size` must divide by it times the devices. Batch
    # normalisation takes its statistics over a micro-batch.
    grad_accum_steps: int = 1
    # Fraction of the target that is spread evenly over all classes in training.
    label_smoothing: float = 0.0
    # Of initial weights, order, augmentation and dropout; the same in both frameworks.
    seed: int = 0
    # Steps between two synchronisations: losses are fetched, and time is taken, once
    # per window.
    log_every_steps: int = 20
    # Seconds of extra steps that are timed after the training, in at least five windows
    # of at most 2 s; they determine the speed, and change neither weights nor scores.
    # `null`: none, so the training's windows count; not with `train.trace`.
    timed_seconds: float | None = None
    evaluate_every_epochs: int = 1  # 0: only at the end
    # Layers that training leaves as they are, by canonical prefix: `[stem,stage.0]`. No
    # gradient, decay, momentum or part of the gradient's norm; their BatchNorms use
    # running statistics. With or without `model.weights`.
    freeze: list[str] = field(default_factory=list)
    # For the controls of a parity check; 0: none. Otherwise each initial weight is
    # moved by one unit in the last place of the compute dtype, and each micro-batch's
    # examples are reordered.
    perturb_seed: int = 0
    # A step, from 1, that is recorded layer by layer in `trace-<step>.safetensors` and
    # is the last; on one device.
    trace: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ConfigError("give train.epochs or train.steps; both are null")
        at_least("train.epochs", self.epochs, 1)
        at_least("train.steps", self.steps, 1)
        at_least("train.global_batch_size", self.global_batch_size, 1)
        at_least("train.grad_accum_steps", self.grad_accum_steps, 1)
        at_least("train.seed", self.seed, 0)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"train.label_smoothing must lie in [0, 1), got {self.label_smoothing}"
            )
        at_least("train.log_every_steps", self.log_every_steps, 1)
        positive("train.timed_seconds", self.timed_seconds, ", or null")
        if self.timed_seconds is not None and self.trace is not None:
            raise ConfigError(
                f"train.timed_seconds={self.timed_seconds:g} times steps after the "
                f"last, and train.trace={self.trace} ends the run with a traced step; "
                "set one of them to null"
            )
        at_least("train.evaluate_every_epochs", self.evaluate_every_epochs, 0)
        self.freeze = sorted(set(self.freeze))
        at_least("train.perturb_seed", self.perturb_seed, 0)
        at_least("train.trace", self.trace, 1)
        if self.trace and self.steps and self.trace > self.steps:
            raise ConfigError(
                f"train.trace={self.trace} is beyond the last step, {self.steps}; "
                f"trace one of 1 to {self.steps}, or raise train.steps"
            )


@dataclass(kw_only=True)
class ScheduleConfig:
    """The learning-rate schedule; the formulas are in `recipe/schedule.py`."""

    name: str
    # Optimizer steps of linear warm-up; not for one_cycle, which has its own.
    warmup_steps: int = 0
    end_factor: float = 0.0  # cosine, one_cycle: last learning rate / peak
    initial_factor: float = 0.04  # one_cycle: first learning rate / peak
    pct_start: float = 0.3  # one_cycle: fraction of the run until the peak
    milestones: list[float] = field(default_factory=list)  # step: fractions of the run
    gamma: float = 0.1  # step: factor at each milestone

    def __post_init__(self) -> None:
        one_of("schedule.name", self.name, SCHEDULES)
        at_least("schedule.warmup_steps", self.warmup_steps, 0)
        fraction("schedule.end_factor", self.end_factor)
        fraction("schedule.initial_factor", self.initial_factor)
        fraction("schedule.pct_start", self.pct_start)
        fraction("schedule.gamma", self.gamma)
        for milestone in self.milestones:
            fraction("schedule.milestones", milestone)
        if self.name == "one_cycle" and self.warmup_steps:
            raise ConfigError(
                "schedule=one_cycle rises over schedule.pct_start of the run; "
                f"set schedule.warmup_steps=0, got {self.warmup_steps}"
            )
        if (self.name == "step") != bool(self.milestones):
            raise ConfigError(
                "schedule.milestones belong to schedule=step and only there, got "
                f"{self.milestones} with schedule={self.name}"
            )


@dataclass(kw_only=True)
class LossScaleConfig:
    """Dynamic loss scaling, with torch's rules and defaults."""

    initial: float = 65536.0  # initial scale
    growth: float = 2.0  # factor after `interval` finite steps
    # Factor after a step whose gradient was not finite, which is skipped.
    backoff: float = 0.5
    interval: int = 2000  # optimizer steps in a row

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
    """The dtypes of storage and computation; `precision.py` of each twin says how.

    fp64 is the proof mode, fp32 true single precision, tf32 the same with matrix
    products on TF32 units; bf16 and fp16 compute in 16 bits and keep parameters in 32.
    """

    name: str
    loss_scale: LossScaleConfig | None = None  # fp16 alone

    def __post_init__(self) -> None:
        one_of("precision", self.name, PRECISIONS)
        if (self.loss_scale is None) == (self.name == "fp16"):
            raise ConfigError(
                f"precision={self.name} and precision.loss_scale={self.loss_scale}: "
                "fp16 has to have one, and no other precision needs it"
            )
