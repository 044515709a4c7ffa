"""The config groups of how and where a run executes; not part of the experiment."""

import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any

from recipe.errors import ConfigError
from recipe.fields import at_least, expanded, one_of

TRACKERS = ("none", "tensorboard", "wandb")
AVERAGED = ("params", "stats")
# Keys of `ParallelConfig` that change the numbers, and so are part of the recipe.
LOCAL_KEYS = (
    *("every", "warmup_steps", "outer", "average", "fragments", "delay", "mix"),
)


class Strategy(StrEnum):
    """How devices share the work.

    Args:
      DP: torch DDP, JAX jit over a mesh.
      FSDP: each device keeps a shard of the parameters and of the optimizer's state.
      LOCAL_SGD: each device trains a replica alone, and they average their weights
        every so many steps. Unlike the others it changes the numbers.
      PMAP: JAX's older API for DP.
    """

    DP = "dp"
    FSDP = "fsdp"
    LOCAL_SGD = "local_sgd"
    PMAP = "pmap"


@dataclass(kw_only=True)
class OuterConfig:
    """The optimizer that takes a round as its step; `recipe/local_rounds.py` has it."""

    # local_sgd: learning rate; 1 without momentum takes the average as it is.
    lr: float = 1.0
    momentum: float = 0.0  # local_sgd
    nesterov: bool = False  # local_sgd

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ConfigError(
                f"parallel.outer.lr must be finite and > 0, got {self.lr}"
            )
        if not 0 <= self.momentum < 1:
            raise ConfigError(
                f"parallel.outer.momentum must lie in [0, 1), got {self.momentum}"
            )
        if self.nesterov and not self.momentum:
            raise ConfigError(
                "parallel.outer.nesterov=true needs parallel.outer.momentum > 0, got "
                "0; set parallel.outer.momentum=0.9 or parallel.outer.nesterov=false"
            )


@dataclass(kw_only=True)
class ParallelConfig:
    """The parallel strategy, and how ranks are monitored."""

    name: str
    # false, under `dp`: devices do not exchange gradients, to time the same step
    # without that. It is not a training, and parity refuses it.
    grad_sync: bool = True
    # Seconds without a heartbeat after which a rank counts as frozen and the run ends,
    # as it does if a window takes longer; a window may take ten times the longest so
    # far.
    timeout_seconds: float = 300.0
    # The same for what may take long: connecting, start-up, the first window, and
    # evaluations.
    start_timeout_seconds: float = 3600.0
    # Cores of each device, pinned without overlap on Linux, and as many threads;
    # `null`: no pinning. Under srun, whose binding is kept, it sets threads only.
    cores_per_device: int | None = None
    # local_sgd: steps between two rounds, in which replicas average their weights; the
    # first round is after so many. `null`: one, at the end.
    every: int | None = 16
    # local_sgd: steps before, in which gradients are exchanged as under dp (post-local
    # SGD).
    warmup_steps: int = 0
    outer: OuterConfig = field(default_factory=OuterConfig)
    # local_sgd: what a round averages: `params`, and the running statistics of
    # BatchNorm, `stats`; without these each replica keeps its own, and the first's are
    # evaluated.
    average: list[str] = field(default_factory=lambda: list(AVERAGED))
    # local_sgd: groups of layers, each averaged in rounds of its own, staggered evenly.
    fragments: int = 1
    # local_sgd: steps from a round until its result replaces the replicas' weights,
    # which are trained meanwhile; less than `every`.
    delay: int = 0
    # local_sgd: fraction of its own weights that a replica keeps then.
    mix: float = 0.0

    def __post_init__(self) -> None:
        one_of("parallel", self.name, tuple(Strategy))
        self._check_rounds()
        if not self.grad_sync and self.name != "dp":
            raise ConfigError(
                "parallel.grad_sync=false needs parallel=dp, got "
                f"parallel={self.name}; leave one of them out"
            )
        at_least("parallel.cores_per_device", self.cores_per_device, 1)
        at_least("parallel.timeout_seconds", self.timeout_seconds, 1.0)
        if not self.timeout_seconds <= self.start_timeout_seconds < math.inf:
            raise ConfigError(
                "parallel.start_timeout_seconds must be finite and at least "
                f"parallel.timeout_seconds={self.timeout_seconds}, got "
                f"{self.start_timeout_seconds}"
            )

    def _check_rounds(self) -> None:
        if self.name != Strategy.LOCAL_SGD:
            for key, given, default in self._local_values():
                if given != default:
                    raise ConfigError(
                        f"parallel.{key}={given} has no meaning with parallel="
                        f"{self.name}; leave it out, or use parallel=local_sgd"
                    )
            return
        if self.every is not None and self.every < 1:
            raise ConfigError(
                f"parallel.every must be at least 1 step, got {self.every}; null "
                "averages once, at the end"
            )
        at_least("parallel.warmup_steps", self.warmup_steps, 0)
        at_least("parallel.fragments", self.fragments, 1)
        at_least("parallel.delay", self.delay, 0)
        if not 0 <= self.mix < 1:
            raise ConfigError(f"parallel.mix must lie in [0, 1), got {self.mix}")
        for part in self.average:
            one_of("parallel.average", part, AVERAGED)
        if "params" not in self.average:
            raise ConfigError(
                f"parallel.average={self.average} has no params: replicas would never "
                "meet; use [params,stats] or [params]"
            )
        self.average = [part for part in AVERAGED if part in self.average]
        most = 1 if self.every is None else self.every
        for key, given, least in (
            ("fragments", self.fragments, self.fragments),
            ("delay", self.delay, self.delay + 1),
        ):
            if least > most and self.every is None:
                raise ConfigError(
                    f"parallel.{key}={given} needs rounds, and parallel.every=null has "
                    "one average, at the end; give parallel.every a number of steps"
                )
            if least > most:
                raise ConfigError(
                    f"parallel.{key}={given} does not fit between two rounds of "
                    f"parallel.every={self.every}; take at most "
                    f"{most - least + given}, or parallel.every={least} or more"
                )

    def _local_values(self) -> Iterator[tuple[str, Any, Any]]:
        """Key, value and default of each key of local_sgd."""
        for key in fields(self):
            if key.name == "outer":
                for own in fields(self.outer):
                    value = getattr(self.outer, own.name)
                    yield f"outer.{own.name}", value, own.default
            elif key.name in LOCAL_KEYS:
                made = key.default_factory
                default = key.default if made is MISSING else made()
                yield key.name, getattr(self, key.name), default


@dataclass(kw_only=True)
class TrackingConfig:
    """Where the record is mirrored, besides the run folder."""

    name: str
    project: str = "duet"  # wandb: `$WANDB_PROJECT`, else `duet`
    entity: str | None = None  # wandb: `$WANDB_ENTITY`, else the API key's owner
    group: str | None = None  # wandb: `$WANDB_RUN_GROUP`, else the experiment's name
    tags: list[str] = field(default_factory=list)  # wandb: empty is `$WANDB_TAGS`

    def __post_init__(self) -> None:
        one_of("tracking", self.name, TRACKERS)
        if self.name != "wandb":
            return
        self.project = self.project or TrackingConfig.project
        # The rules of W&B's server, which would refuse the run only after it has
        # started.
        if len(self.project) > 128 or set(self.project) & set("/\\#?%:"):
            raise ConfigError(
                f"tracking.project={self.project} must be at most 128 characters "
                "without / \\ # ? % and :, as W&B has it; its owner is tracking.entity"
            )
        for tag in self.tags:
            if not 1 <= len(tag) <= 64:
                raise ConfigError(
                    f"tracking.tags: {tag!r} has {len(tag)} characters; W&B takes 1 to "
                    "64"
                )


@dataclass(kw_only=True)
class CheckpointConfig:
    """When a run saves checkpoints, and how many it keeps."""

    # Optimizer steps between two; `null`: not by steps. A run that is asked to stop
    # saves in any case.
    every_steps: int | None = None
    every_minutes: float | None = 10.0  # since the last one; `null`: not by time
    # Also after the last step, so that the run can be extended; not if both of the
    # above are `null`. Parity checks and the runs of a study omit it.
    at_end: bool = True
    # How many of the newest are kept, in addition to the one with the best test score
    # at its own step.
    keep: int = 2

    def __post_init__(self) -> None:
        at_least("checkpoint.every_steps", self.every_steps, 1)
        at_least("checkpoint.every_minutes", self.every_minutes, 0)
        at_least("checkpoint.keep", self.keep, 1)

    @property
    def saves_end(self) -> bool:
        """Whether one is due after the last step."""
        saves = self.every_steps is not None or self.every_minutes is not None
        return self.at_end and saves


@dataclass(kw_only=True)
class RunConfig:
    """The run folder, and whether the run in it is resumed."""

    # The run folder: new, empty, or of a run that was interrupted; `null`:
    # `runs/<experiment>-<framework>-<UTC time>`.
    dir: str | None = None
    # `auto`: where `run.dir` holds an interrupted run, resume it; `never`: refuse it;
    # or the path of a run folder or of one of its checkpoints.
    resume: str = "auto"
    # Resume even if seed, data or recipe differ; this is recorded.
    resume_anyway: bool = False

    def __post_init__(self) -> None:
        if self.dir == "":
            raise ConfigError("run.dir is empty; give a folder, or leave it out")
        if self.dir is not None:
            self.dir = expanded("run.dir", self.dir)
        if not self.resume:
            raise ConfigError(
                "run.resume is empty; give auto, never, or the path of a run folder "
                "or checkpoint"
            )
        if self.resume not in ("auto", "never"):
            self.resume = expanded("run.resume", self.resume)
