"""A study: which runs of one recipe, how often, and in what order."""

import random
from dataclasses import dataclass, field

from recipe.config import MISSING, Config
from recipe.errors import ConfigError

FRAMEWORKS = ("torch", "jax")
REGIMES = ("strong", "weak")
CLUSTERS = ("local", "slurm")
# Axes by the key that a run takes for each, where it has one.
AXES = {
    "framework": None,
    "world_size": "devices",
    "precision": "precision",
    "parallel": "parallel",
}


@dataclass(kw_only=True)
class StudyPlan:
    """The axes, every value of one with every value of the others."""

    name: str = MISSING
    # strong: train.global_batch at every world size.  weak: train.global_batch on each
    # device, so a run's is the world size times as large.
    regime: str = MISSING
    framework: list[str] = field(default_factory=lambda: list(FRAMEWORKS))
    world_size: list[int] = field(default_factory=lambda: [1, 2])
    precision: list[str] = field(default_factory=lambda: ["fp32"])
    parallel: list[str] = field(default_factory=lambda: ["dp"])
    repeats: int = 5  # independent processes for each combination
    order_seed: int = 0  # the order is drawn from it
    recipe: list[str] = field(default_factory=list)  # overrides, before those typed
    parity: list[str] = field(default_factory=list)  # overrides of its parity check

    def __post_init__(self) -> None:
        if self.regime not in REGIMES:
            raise ConfigError(
                f"study.regime={self.regime} is unknown; one of: {', '.join(REGIMES)}"
            )
        for axis in AXES:
            values = getattr(self, axis)
            if not values or len(set(values)) < len(values):
                raise ConfigError(
                    f"study.{axis}={values} must name one value or more, each once"
                )
        unknown = set(self.framework) - set(FRAMEWORKS)
        if unknown:
            raise ConfigError(
                f"study.framework={self.framework}: {', '.join(sorted(unknown))} is "
                f"unknown; of: {', '.join(FRAMEWORKS)}"
            )
        if min(self.world_size) < 1:
            raise ConfigError(
                f"study.world_size must be positive, got {self.world_size}"
            )
        if self.repeats < 1 or self.order_seed < 0:
            raise ConfigError(
                "study.repeats must be at least 1 and study.order_seed at least 0, got "
                f"{self.repeats} and {self.order_seed}"
            )


@dataclass(kw_only=True)
class ClusterConfig:
    """Where the cells of a study run, and with how much of it."""

    name: str = MISSING
    gpus_per_node: int = 0  # 0: on CPUs
    tasks_per_node: int | None = None  # devices of a node; default: its GPUs, else 1
    cores_per_device: int | None = None  # local default: cores over the largest world
    minutes: int = 30  # that a cell may take
    partition: str | None = None
    account: str | None = None
    exclusive: bool = True  # a node is a cell's alone, since its times count

    def __post_init__(self) -> None:
        if self.name not in CLUSTERS:
            raise ConfigError(
                f"cluster={self.name} is unknown; one of: {', '.join(CLUSTERS)}"
            )
        if self.gpus_per_node < 0:
            raise ConfigError(
                f"cluster.gpus_per_node must be at least 0, got {self.gpus_per_node}"
            )
        for key in "tasks_per_node", "cores_per_device", "minutes":
            given = getattr(self, key)
            if given is not None and given < 1:
                raise ConfigError(f"cluster.{key} must be at least 1, got {given}")

    @property
    def devices_per_node(self) -> int:
        return self.tasks_per_node or self.gpus_per_node or 1


@dataclass(kw_only=True)
class StudyConfig(Config):
    """A study: the run above at every point of the plan."""

    study: StudyPlan = MISSING
    cluster: ClusterConfig = MISSING
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.devices is not None:
            raise ConfigError("a study takes study.world_size=[...], not devices")


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
      repeat: from 1.
    """

    framework: str
    world_size: int
    precision: str
    parallel: str
    repeat: int = 1

    @property
    def point(self) -> str:
        """What its repeats share: "torch-2-fp32-dp"."""
        return f"{self.framework}-{self.world_size}-{self.precision}-{self.parallel}"

    @property
    def name(self) -> str:
        """Of its folder: "torch-2-fp32-dp-3"."""
        return f"{self.point}-{self.repeat}"

    def overrides(self, global_batch: int, regime: str) -> list[str]:
        """What this cell's run is asked for, over its recipe.

        >>> Cell("torch", 2, "fp32", "dp").overrides(64, "weak")[-1]
        'train.global_batch=128'
        """
        batch = global_batch * (self.world_size if regime == "weak" else 1)
        return [
            f"precision={self.precision}",
            f"parallel={self.parallel}",
            f"devices={self.world_size}",
            f"train.global_batch={batch}",
        ]


def points(plan: StudyPlan) -> list[Cell]:
    """Every combination once; pmap is JAX's alone, so there is none for PyTorch."""
    return [
        Cell(framework, world_size, precision, parallel)
        for framework in plan.framework
        for world_size in plan.world_size
        for precision in plan.precision
        for parallel in plan.parallel
        if (framework, parallel) != ("torch", "pmap")
    ]


def cells(plan: StudyPlan) -> list[Cell]:
    """Every repeat of every point, in the order they run in.

    A randomised block design: each repeat holds every point once, in an order of its
    own, so that a machine that slows down over the hours slows every point alike.
    Source: Fisher, The Design of Experiments, 1935, ch. 4.
    """
    generator = random.Random(plan.order_seed)
    order = []
    for repeat in range(1, plan.repeats + 1):
        block = [
            Cell(p.framework, p.world_size, p.precision, p.parallel, repeat)
            for p in points(plan)
        ]
        generator.shuffle(block)
        order += block
    return order
