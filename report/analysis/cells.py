"""Timed runs -> cells: configurations, each with the runs that repeat it."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields

from report.analysis.runs import Skipped, TimedRun
from report.analysis.sweeps import Varied, format_varied

# How a run's devices are divided over processes; one device is one process either way.
PER_DEVICE, ONE_PROCESS = "a process per device", "one process"


@dataclass(frozen=True, order=True)
class Setting:
    """What is fixed along a curve, apart from its regime."""

    experiment: str
    data: str
    model: str
    precision: str
    parallel: str
    device: str
    machine: str
    deterministic: bool
    framework: str
    compiled: bool
    cuda_graphs: bool
    layout: str
    software: str
    varied: Varied = ()  # of a sweep, what tells it from the others

    def __str__(self) -> str:
        what = f"{self.experiment} ({self.model} on {self.data})"
        how = (self.precision, self.parallel, self.layout)
        where = (self.device, self.machine, self.software)
        kernels = ("deterministic kernels",) * self.deterministic
        compiled = (self.compilation,) * bool(self.compilation)
        sweep = (format_varied(self.varied),) * bool(self.varied)
        parts = (self.framework, *compiled, what, *sweep, *how, *where, *kernels)
        return ", ".join(parts)

    @property
    def compilation(self) -> str:
        """How PyTorch is compiled; empty if eager, and for JAX, which always is."""
        if self.framework != "torch" or not self.compiled:
            return ""
        return "compiled with CUDA graphs" if self.cuda_graphs else "compiled"

    @property
    def compile_key(self) -> str:
        """The key that a parity check of it has beside the others."""
        value = "max" if self.cuda_graphs else "true"
        return f" and compile={value}" * bool(self.compilation)


@dataclass(frozen=True)
class Cell:
    """A configuration and its runs, which are each other's repeats."""

    setting: Setting
    world_size: int
    global_batch_size: int
    grad_accum_steps: int
    runs: tuple[TimedRun, ...]

    @property
    def rates(self) -> list[float]:
        """Images/s, one figure for each run."""
        return [run.images_per_second for run in self.runs]

    @property
    def device_batch(self) -> float:
        """Examples per device and micro-batch."""
        return self.global_batch_size / (self.world_size * self.grad_accum_steps)

    @property
    def seeds(self) -> int:
        """How many seeds its runs have."""
        return len({run.seed for run in self.runs})

    @property
    def commits(self) -> tuple[str, ...]:
        """The known commits of its runs."""
        return tuple(sorted({run.commit for run in self.runs} - {""}))

    def __str__(self) -> str:
        count = self.grad_accum_steps
        parts = f" in {count} micro-batches" if count > 1 else ""
        return (
            f"{self.setting}, world size {self.world_size}, "
            f"global batch {self.global_batch_size}{parts}"
        )


def cells_of(runs: Iterable[TimedRun]) -> tuple[list[Cell], list[Skipped]]:
    """Runs grouped by configuration; one with runs of several recipes is skipped.

    Seeds of one recipe are repeats, and sweeps were separated before. Of other recipes
    nothing says which was meant, and their mean describes neither.
    """
    runs = list(runs)
    layouts: dict[Setting, set[str]] = defaultdict(set)
    for run in runs:
        if run.world_size > 1:
            layouts[_setting(run, "")].add(_layout(run))
    piles: dict[tuple[Setting, int, int, int], list[TimedRun]] = defaultdict(list)
    for run in runs:
        # One device is one process either way: it is the base of every layout.
        several = layouts.get(_setting(run, ""), {PER_DEVICE})
        for layout in [_layout(run)] if run.world_size > 1 else sorted(several):
            setting = _setting(run, layout)
            key = (setting, run.world_size, run.global_batch_size, run.grad_accum_steps)
            piles[key].append(run)
    cells: list[Cell] = []
    skipped: list[Skipped] = []
    for key in sorted(piles):
        cell = Cell(*key, tuple(piles[key]))
        if mixed := different_recipes(cell.runs):
            skipped.append(Skipped(str(cell), f"holds runs of {mixed}"))
        else:
            cells.append(cell)
    return cells, skipped


def _setting(run: TimedRun, layout: str) -> Setting:
    names = (field.name for field in fields(Setting) if field.name != "layout")
    return Setting(layout=layout, **{name: getattr(run, name) for name in names})


def _layout(run: TimedRun) -> str:
    if run.processes == run.world_size:
        return PER_DEVICE
    if run.processes == 1:
        return ONE_PROCESS
    return f"{run.world_size // run.processes} devices per process"


def different_recipes(runs: Iterable[TimedRun], of_recipe: bool = True) -> str:
    """How the recipes of these runs differ; empty if they are of one recipe."""
    names = ["parameters", "data_fingerprint"] + ["of_recipe"] * of_recipe
    for name in names:
        paths: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            paths[str(getattr(run, name))[:12]].append(run.path.name)
        if len(paths) > 1:
            which = [f"{value} ({', '.join(who[:3])})" for value, who in paths.items()]
            what = "recipes" if name == "of_recipe" else name
            return f"different {what}: {'; '.join(which)}; give one study at a time"
    return ""
