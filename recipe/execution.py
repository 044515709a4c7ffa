"""The config groups of how and where a run executes; not part of the experiment."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from recipe.errors import ConfigError
from recipe.fields import at_least, expanded, one_of

TRACKERS = ("none", "tensorboard", "wandb")


class Strategy(StrEnum):
    """How devices share the work.

    Args:
      DP: torch DDP, JAX jit over a mesh.
      FSDP: each device keeps a shard of the parameters and of the optimizer's state.
      PMAP: JAX's older API for DP.
    """

    DP = "dp"
    FSDP = "fsdp"
    PMAP = "pmap"


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

    def __post_init__(self) -> None:
        one_of("parallel", self.name, tuple(Strategy))
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
