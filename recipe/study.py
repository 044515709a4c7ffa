"""A study: which runs of one recipe, how often, and in what order."""

import random
import re
from dataclasses import dataclass, field, replace
from itertools import product, starmap

from recipe.cluster import ClusterConfig
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.experiment import SPLIT
from recipe.fields import at_least, one_of, positive
from recipe.links import UNLIMITED, check_beside_links, check_links
from recipe.strategies import every_of, file_part, strategy_overrides

FRAMEWORKS = ("torch", "jax")
REGIMES = ("strong", "strong_accumulate", "weak")
DATA = ("real", "synthetic")
COMPILE = (False, True, "max")
# Axes, and the run's key for each, if any, which may not be given directly.
AXES = {
    "framework": None,
    "world_size": "devices",
    "precision": "precision",
    "parallel": "parallel",
    "model": "model",
    "data": None,
    "grad_sync": "parallel.grad_sync",
    "update": "optim.update",
    "compile": "compile",
    "bandwidth_mbit": None,
}
# Axes that omit a part of the step: ablations, and their names.
ABLATIONS = {"grad_sync": "alone", "update": "frozen"}


@dataclass(kw_only=True)
class StudyPlan:
    """The axes; every combination of their values is run."""

    name: str
    # `strong`: `train.global_batch_size` at every world size. `weak`: on each device,
    # so a run's is the world size times as large. `strong_accumulate`: strong, with
    # `train.grad_accum_steps` divided by the world size, so that micro-batches stay.
    regime: str
    framework: list[str] = field(default_factory=lambda: list(FRAMEWORKS))  # an axis
    world_size: list[int] = field(default_factory=lambda: [1, 2])  # an axis
    precision: list[str] = field(default_factory=lambda: ["fp32"])  # an axis
    # An axis; `pmap` is JAX's alone. `local_sgd@64`: with `parallel.every=64`.
    parallel: list[str] = field(default_factory=lambda: ["dp"])
    model: list[str] | None = None  # an axis; `null`: the recipe's own
    # An axis: `real`, the recipe's own data, and `synthetic`, which costs nothing to
    # load.
    data: list[str] = field(default_factory=lambda: ["real"])
    # `[true,false]` also times steps on several devices under `dp` without the gradient
    # exchange; the difference is exposed communication.
    grad_sync: list[bool] = field(default_factory=lambda: [True])
    # `[true,false]` also times every step without the optimizer.
    update: list[bool] = field(default_factory=lambda: [True])
    # `[false,true]` also times PyTorch with `compile=true`, and `[false,true,max]` with
    # CUDA graphs; JAX is always compiled.
    compile: list[bool | str] = field(default_factory=lambda: [False])
    # An axis: Mbit/s of the link of each process, which is then a host of its own on
    # this machine (root on Linux); `unlimited`: such a link without a limit. Those over
    # an unlimited link train the whole recipe, the others only as long as is timed.
    bandwidth_mbit: list[int | str] | None = None
    # Windows that are timed over a limited link, after one of warm-up; each has one
    # exchange: one step, or `parallel.every`.
    rounds: int = 4
    # Whether each repeat has its own `train.seed`, the recipe's plus 0, 1, 2 and so on.
    seeds: bool = False
    repeats: int = 5  # independent processes for each combination
    order_seed: int = 0  # the order of the processes is drawn from it
    # Each run's `train.timed_seconds`; `null`: the windows of its training count.
    timed_seconds: float | None = 3.0
    # How long a study waits in all, before runs on this machine's CPUs, while other
    # processes use more than a tenth of its cores; 0 never waits.
    wait_minutes: float = 5.0
    # Overrides of every run, before those on the command line.
    recipe: list[str] = field(default_factory=list)
    # Overrides of its parity checks: `'study.parity=["controls=2"]'`.
    parity: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        one_of("study.regime", self.regime, REGIMES)
        for axis in AXES:
            values = getattr(self, axis)
            if values is None:
                continue
            if not values or len(set(values)) < len(values):
                raise ConfigError(
                    f"study.{axis}={values} must name one value or more, each once"
                )
        for axis, known in (
            ("framework", FRAMEWORKS),
            ("data", DATA),
            ("compile", COMPILE),
        ):
            values = getattr(self, axis)
            if unknown := [str(value) for value in values if value not in known]:
                raise ConfigError(
                    f"study.{axis}={values}: {', '.join(unknown)} is unknown; of: "
                    f"{', '.join(map(str, known)).lower()}"
                )
        for axis in ABLATIONS:
            if True not in getattr(self, axis):
                raise ConfigError(
                    f"study.{axis}=[false] has nothing to compare with; write "
                    "[true,false]"
                )
        if min(self.world_size) < 1:
            raise ConfigError(
                f"study.world_size must be positive, got {self.world_size}"
            )
        at_least("study.rounds", self.rounds, 1)
        at_least("study.repeats", self.repeats, 1)
        at_least("study.order_seed", self.order_seed, 0)
        positive("study.timed_seconds", self.timed_seconds, ", or null")
        at_least("study.wait_minutes", self.wait_minutes, 0.0)
        if False in self.grad_sync and all(
            point.grad_sync for point in configurations(self)
        ):
            raise ConfigError(
                f"study.grad_sync={self.grad_sync}: only several devices under dp "
                "exchange gradients; add a study.world_size above 1 (and dp), or "
                "leave study.grad_sync at [true]"
            )
        for parallel in self.parallel:
            every_of(parallel)
        if self.bandwidth_mbit is not None:
            check_links(self.bandwidth_mbit, self.parallel)
            beside = {axis: getattr(self, axis) for axis in ABLATIONS}
            check_beside_links(self.world_size, self.timed_seconds, beside)


@dataclass(kw_only=True)
class StudyConfig(Config):
    """A study: the run above at every point of the plan."""

    study: StudyPlan
    cluster: ClusterConfig
    # As `--dry-run`: prints every run, its command, and the device-hours and node-hours
    # that it takes at most and, once some have finished, probably; on any machine.
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.devices is not None:
            raise ConfigError("a study takes study.world_size=[...], not devices")
        if self.study.bandwidth_mbit is None:
            return
        if self.cluster.name != "local" or self.cluster.gpus_per_node:
            raise ConfigError(
                "study.bandwidth_mbit makes hosts on this machine's CPUs; use "
                "cluster=local with cluster.gpus_per_node=0, or leave it out"
            )


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Args:
      repeat: from 1.
    """

    framework: str
    world_size: int
    precision: str
    parallel: str
    model: str | None = None
    data: str = "real"
    grad_sync: bool = True
    update: bool = True
    compile: bool | str = False
    bandwidth_mbit: int | str | None = None
    repeat: int = 1

    @property
    def configuration(self) -> str:
        """Without the repeat: "torch-2-fp32-dp", "jax-mlp-2-fp32-dp-alone"."""
        axes = self.framework, *([self.model] if self.model else [])
        axes = *axes, str(self.world_size), self.precision, file_part(self.parallel)
        ablations = compiled_parts(self.compile)
        ablations += (self.data,) * (self.data != "real")
        if (mbit := self.bandwidth_mbit) is not None:
            ablations += (mbit if isinstance(mbit, str) else f"{mbit}mbit",)
        return "-".join(
            [*axes, *ablations, *(ABLATIONS[axis] for axis in self.ablated)]
        )

    @property
    def ablated(self) -> list[str]:
        """The axes of the parts that its step omits."""
        return [axis for axis in ABLATIONS if not getattr(self, axis)]

    @property
    def name(self) -> str:
        """Its folder's name: "torch-2-fp32-dp-3"."""
        return f"{self.configuration}-{self.repeat}"

    def overrides(
        self, global_batch_size: int, regime: str, grad_accum_steps: int = 1
    ) -> list[str]:
        """The run's overrides of the recipe.

        Args:
          global_batch_size, grad_accum_steps: the recipe's.

        Raises:
          ConfigError: if the micro-batches do not divide over the devices.

        >>> StudyRun("torch", 2, "fp32", "dp").overrides(64, "weak")[-1]
        'train.global_batch_size=128'
        >>> StudyRun("jax", 2, "fp32", "dp").overrides(64, "strong_accumulate", 4)[-1]
        'train.grad_accum_steps=2'
        """
        batch = global_batch_size * (self.world_size if regime == "weak" else 1)
        own = [
            f"precision={self.precision}",
            *strategy_overrides(self.parallel),
            f"devices={self.world_size}",
            f"train.global_batch_size={batch}",
        ]
        if self.model:
            own.append(f"model={self.model}")
        if self.data == "synthetic":
            # Also in place of custom data, whose files were given.
            own += ["data=synthetic", "data.files=null", "data.label_offset=0"]
            own += [f"data.{key}={default}" for key, default in SPLIT.items()]
        if self.compile:
            own.append(f"compile={self.compile}".lower())
        own += [f"{AXES[axis]}=false" for axis in self.ablated]
        if regime == "strong_accumulate":
            if grad_accum_steps % self.world_size:
                raise ConfigError(
                    f"train.grad_accum_steps={grad_accum_steps} does not divide over "
                    f"world_size={self.world_size}; use a multiple of it"
                )
            own.append(f"train.grad_accum_steps={grad_accum_steps // self.world_size}")
        return own

    def timed_alone(self, rounds: int) -> list[str]:
        """Overrides of a run over a limited link: as many steps as are timed.

        Its numbers are those of the run over an unlimited one.

        Args:
          rounds: exchanges to be timed, each in its window, after one of warm-up.

        >>> StudyRun("jax", 2, "fp32", "local_sgd@8", bandwidth_mbit=10).timed_alone(3)
        ['train.steps=32', 'train.log_every_steps=8', 'train.evaluate_every_epochs=0']
        """
        if self.bandwidth_mbit in (None, UNLIMITED):
            return []
        every = every_of(self.parallel) or 1
        steps = {"steps": every * (rounds + 1), "log_every_steps": every}
        own = [f"train.{key}={value}" for key, value in steps.items()]
        return [*own, "train.evaluate_every_epochs=0"]


def compiled_parts(compile: bool | str) -> tuple[str, ...]:
    """What a folder's name says of `compile`.

    >>> compiled_parts(False), compiled_parts(True), compiled_parts("max")
    ((), ('compiled',), ('compiled', 'max'))
    """
    return ("compiled",) * bool(compile) + ("max",) * (compile == "max")


def timing(plan: StudyPlan) -> list[str]:
    """Overrides of every run that make its speed reliable.

    >>> timing(StudyPlan(name="mine", regime="weak", timed_seconds=None))
    ['train.timed_seconds=null']
    """
    seconds = "null" if plan.timed_seconds is None else f"{plan.timed_seconds}"
    return [f"train.timed_seconds={seconds}"]


def check_sizes_of(plan: StudyPlan, fit: int | None = None) -> list[int]:
    """World sizes of its parity checks, which run on one node.

    Args:
      fit: devices of a node; None if there is only this one.

    >>> plan = StudyPlan(name="mine", regime="weak", world_size=[1, 8, 16])
    >>> check_sizes_of(plan, fit=8)
    [1, 8]
    """
    asked = [o for o in plan.parity if o.lstrip("+").startswith("world_sizes=")]
    if asked:
        return [int(size) for size in re.findall(r"\d+", asked[-1])]
    return [size for size in plan.world_size if fit is None or size <= fit] or [1]


def check_batch(
    plan: StudyPlan, global_batch_size: int, grad_accum_steps: int, sizes: list[int]
) -> int:
    """`train.global_batch_size` of its parity checks, in examples.

    A check also trains on one device, so its batch is at most what one device of a run
    has, not what many have together: a multiple of the largest world size that is
    checked, with at least two examples on each device.

    Args:
      global_batch_size, grad_accum_steps: the recipe's.
      sizes: world sizes of the check.

    >>> weak = StudyPlan(name="mine", regime="weak", world_size=[1, 8, 16])
    >>> check_batch(weak, 128, 1, [1, 8])  # a cell of 8 devices has 1024
    128
    """
    least = min(plan.world_size)
    if plan.regime == "strong_accumulate" or (plan.regime == "strong" and least == 1):
        return global_batch_size
    batch = global_batch_size // (least if plan.regime == "strong" else 1)
    unit = max(sizes, default=1) * grad_accum_steps
    return max(batch // unit, 2) * unit


def other_batches(
    plan: StudyPlan, global_batch_size: int, checked: dict[str, int]
) -> list[str]:
    """Lines that say which parity checks have another batch than some run.

    Args:
      global_batch_size: the recipe's.
      checked: that of each check, by its name.
    """
    sizes = plan.world_size if plan.regime == "weak" else [1]
    of_cells = sorted(global_batch_size * size for size in sizes)
    cells = " to ".join(f"{b:,}" for b in dict.fromkeys((of_cells[0], of_cells[-1])))
    return [
        f"{name} trains at a global batch of {batch:,}, which fits one device; the "
        f"study's runs at {cells}"
        for name, batch in checked.items()
        if {batch} != set(of_cells)
    ]


def configurations(plan: StudyPlan) -> list[StudyRun]:
    """Every valid combination, once.

    pmap is JAX's alone, and JAX is always compiled. Only several devices under dp
    exchange gradients. One part of a step is omitted at a time.
    """
    axes = (getattr(plan, axis) or [None] for axis in AXES)
    every = (
        run if run.framework == "torch" else replace(run, compile=False)
        for run in starmap(StudyRun, product(*axes))
    )
    return [
        run
        for run in dict.fromkeys(every)
        if (run.framework, run.parallel) != ("torch", "pmap")
        and (run.grad_sync or (run.parallel == "dp" and run.world_size > 1))
        and len(run.ablated) <= 1
    ]


def study_runs(plan: StudyPlan) -> list[StudyRun]:
    """Every repeat of every configuration, in the order of execution.

    A randomised block design: each repeat has every configuration once, in a random
    order, so that a machine that slows down over the hours affects all alike. Source:
    Fisher, The Design of Experiments, 1935, ch. 4.
    """
    generator = random.Random(plan.order_seed)
    order = []
    for repeat in range(1, plan.repeats + 1):
        block = [replace(point, repeat=repeat) for point in configurations(plan)]
        generator.shuffle(block)
        order += block
    return order
