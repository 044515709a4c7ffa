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

    name: str  # of a `Strategy`
    # false: each device trains on its share as if it were alone, to time the same step
    # without the exchange of gradients; no training of anything.
    exchange: bool = True
    # Seconds after which the ranks are ended: that one may give no sign of life, or
    # that a window may take, though always ten times the longest so far.
    timeout_seconds: float = 300.0
    # That they may take to meet, to start, for their first window and an evaluation.
    start_timeout_seconds: float = 3600.0
    # Cores that a device's threads keep to, no other's on its node; null: as they are
    # found. It is a study's way to give each device the same at every world size.
    cores_per_device: int | None = None

    def __post_init__(self) -> None:
        one_of("parallel", self.name, tuple(Strategy))
        if not self.exchange and self.name != "dp":
            raise ConfigError(
                f"parallel.exchange=false leaves out what parallel=dp does, got "
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
    project: str = "duet"
    entity: str | None = None
    group: str | None = None  # default: the experiment's name
    tags: list[str] = field(default_factory=list)

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
    """When a run saves all that it needs to go on, and how many of these it keeps."""

    every_steps: int | None = None  # optimizer steps; null: not by steps
    every_minutes: float | None = 10.0  # since the last one; null: not by time
    keep: int = 2  # the newest; that with the best test score is kept beside them

    def __post_init__(self) -> None:
        at_least("checkpoint.every_steps", self.every_steps, 1)
        at_least("checkpoint.every_minutes", self.every_minutes, 0)
        at_least("checkpoint.keep", self.keep, 1)


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
            self.dir = expanded("run.dir", self.dir)
        if not self.resume:
            raise ConfigError(
                "run.resume is empty; give auto, never, or the path of a run folder "
                "or checkpoint"
            )
        if self.resume not in ("auto", "never"):
            self.resume = expanded("run.resume", self.resume)
