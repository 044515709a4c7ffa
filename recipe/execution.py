"""The groups that say how and where a run is carried out: no part of the experiment."""

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
      FSDP: so that each device keeps a share of the parameters and of the optimizer's
        state.
      PMAP: JAX's older way to DP.
    """

    DP = "dp"
    FSDP = "fsdp"
    PMAP = "pmap"


@dataclass(kw_only=True)
class ParallelConfig:
    """How devices share the work, and how they are watched over meanwhile."""

    name: str
    # false, under `dp`: each device trains on its part of the batch as if it were
    # alone, to time the same step without the exchange of gradients. It is not a
    # training, and parity refuses it.
    grad_sync: bool = True
    # Seconds after which a rank that gives no sign of life ends the run, as does a
    # window that does not end, though each may take ten times the longest so far.
    timeout_seconds: float = 300.0
    # The same for what may take long: that the ranks meet, start, and end their first
    # window or an evaluation.
    start_timeout_seconds: float = 3600.0
    # Cores of each device, no other's on its node where Linux pins them, and as many
    # threads; `null`: whatever the process finds. Under srun, whose binding stays, it
    # is the threads alone.
    cores_per_device: int | None = None

    def __post_init__(self) -> None:
        one_of("parallel", self.name, tuple(Strategy))
        if not self.grad_sync and self.name != "dp":
            raise ConfigError(
                f"parallel.grad_sync=false leaves out what parallel=dp does, got "
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
    """Where the record is mirrored to, beside the run folder."""

    name: str
    project: str = "duet"  # wandb: `$WANDB_PROJECT`, else `duet`
    entity: str | None = None  # wandb: `$WANDB_ENTITY`, else whose key it is
    group: str | None = None  # wandb: `$WANDB_RUN_GROUP`, else the experiment's name
    tags: list[str] = field(default_factory=list)  # wandb: empty is `$WANDB_TAGS`

    def __post_init__(self) -> None:
        one_of("tracking", self.name, TRACKERS)
        if self.name != "wandb":
            return
        self.project = self.project or TrackingConfig.project
        # As W&B's server has it, which would refuse the run when it has begun.
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
    """When a run saves all that it needs to resume, and how many of these it keeps."""

    # Optimizer steps between two; `null`: not by steps. A run that is told to stop
    # saves in any case.
    every_steps: int | None = None
    every_minutes: float | None = 10.0  # since the last one; `null`: not by time
    # After the last step too, so that the run can be trained on; not where both of
    # the above are `null`. Parity checks and the cells of a study leave it out.
    at_end: bool = True
    # How many of the newest stay; the one with the best test score of its own step
    # stays beside them.
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
    """Where the record goes, and whether the run resumes one that is there."""

    # The run folder: new, empty, or of a run that was interrupted; `null`:
    # `runs/<experiment>-<framework>-<UTC time>`.
    dir: str | None = None
    # `auto`: where `run.dir` holds an interrupted run, resume it; `never`: refuse it;
    # or the path of a run folder or of one of its checkpoints.
    resume: str = "auto"
    # Resume though seed, data or recipe are others; the record says so.
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
