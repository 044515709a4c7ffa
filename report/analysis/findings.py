"""Everything that a report shows, from run folders alone, before any of it is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipe.errors import RecordError
from report.analysis.accuracy import Accuracy, TimeTo, accuracy, common_target, time_to
from report.analysis.breakdown import (
    Breakdown,
    Ranks,
    Ratio,
    arms_of,
    breakdown,
    compiled_over_eager,
    rank_times,
    real_over_synthetic,
)
from report.analysis.cells import Cell
from report.analysis.checks import Check, check_of, read_checks
from report.analysis.groups import Group, grouped
from report.analysis.hardware import SEVERAL, flops_per_device, peak_flops
from report.analysis.intervals import Estimate
from report.analysis.projection import (
    Interconnect,
    Projected,
    assumed_interconnect,
    exchange_of,
    gradient_bytes,
    project,
)
from report.analysis.recipes import Recipe, read_recipe
from report.analysis.runs import EXCHANGE, LeftOut, TimedRun, find, read_timed_runs
from report.analysis.scaling import (
    SINGLE,
    WEAK,
    Curve,
    Point,
    Scaling,
    Versus,
    scaling,
    through,
)
from report.analysis.studies import Study, read_study
from report.analysis.sweeps import told_apart
from report.analysis.timings import NOTHING, Rows, read_between_steps
from report.parity.bounds import PASSES


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a reader may ask of a report.

    Args:
      base: world size that speed-ups are over.
      target: test accuracy to take the time to; by default the highest whole per cent
        that every run of a group reached.
      interconnect: to project over; by default that of the machine that the device's
        name tells of.
      peak_flops: FLOP/s of one device, where its data sheet is not known here.
    """

    base: int = 1
    target: float | None = None
    interconnect: Interconnect | None = None
    peak_flops: float | None = None


@dataclass(frozen=True)
class Claim:
    """JAX against PyTorch in one cell, and the parity check that it stands on.

    Args:
      withheld: why nothing is claimed; empty where a check found both identical.
      seconds: that the shortest of its runs was timed for; 0 where that is not known.
    """

    versus: Versus
    check: Check | None
    withheld: str
    seconds: float = 0.0

    @property
    def commits(self) -> tuple[str, ...]:
        """Of the runs and of the check's, as far as is known."""
        checks = [self.check] if self.check else []
        return _commits(self.versus.jax, self.versus.torch, *checks)


@dataclass(frozen=True)
class Compiled:
    """PyTorch's images/s compiled over eager in one cell.

    Args:
      checks: of the compiled cell and of the eager one.
      withheld: why nothing is said; empty where checks found both of them identical
        with JAX.
    """

    ratio: Ratio
    checks: tuple[Check, ...]
    withheld: str

    @property
    def commits(self) -> tuple[str, ...]:
        """Of the runs and of the checks', as far as is known."""
        return _commits(self.ratio.cell, self.ratio.under, *self.checks)


def _commits(*places: Cell | Check) -> tuple[str, ...]:
    return tuple(sorted({commit for place in places for commit in place.commits}))


@dataclass(frozen=True)
class Utilisation:
    """What a point's training takes of a device.

    Args:
      flops: FLOP/s of one device.
      share: of the device's peak, None where that is not known.
      reason: why there is no share.
    """

    flops: Estimate
    share: Estimate | None
    reason: str


@dataclass(frozen=True)
class Projection:
    """A curve beyond the devices that there were, by the model.

    Args:
      points: by world size, empty with a reason.
      errors: devices -> predicted over measured minus 1, where both are known.
    """

    curve: Curve
    interconnect: Interconnect | None
    points: tuple[Projected, ...] = ()
    errors: dict[int, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that many runs show together.

    Args:
      scaling: curves, comparisons and what was left out.
      groups: its curves as they are drawn.
      common: what is the same in all groups, by what it is called.
      recipes: by config_hash.
      times: to an accuracy, of each cell of each group that has one.
      accuracies: over seeds, of each cell that has one.
      breakdowns: of the step, of each cell that was measured in parts.
      data_costs: of cells on real data over those on synthetic images.
      compiled: PyTorch's cells over those of eager PyTorch.
      ranks: of each cell that has several.
      roots: the folders that it was made of.
    """

    scaling: Scaling
    groups: tuple[Group, ...]
    common: Mapping[str, str]
    checks: tuple[Check, ...]
    studies: tuple[Study, ...]
    claims: tuple[Claim, ...]
    recipes: Mapping[str, Recipe]
    times: Mapping[str, tuple[TimeTo, ...]]
    accuracies: tuple[Accuracy, ...]
    breakdowns: tuple[Breakdown, ...]
    data_costs: tuple[Ratio, ...]
    compiled: tuple[Compiled, ...]
    ranks: tuple[Ranks, ...]
    projections: tuple[Projection, ...]
    roots: tuple[Path, ...]
    options: Options

    @property
    def runs(self) -> list[TimedRun]:
        """Every run that a figure is made of, once."""
        cells = [p.cell for curve in self.scaling.curves for p in curve.points]
        return list({run.path: run for cell in cells for run in cell.runs}.values())

    def recipe(self, cell: Cell) -> Recipe | None:
        return self.recipes.get(cell.runs[0].config_hash)

    def breakdown_of(self, cell: Cell) -> Breakdown | None:
        return next((found for found in self.breakdowns if found.cell is cell), None)

    def accuracy_of(self, cell: Cell) -> Accuracy | None:
        return next((found for found in self.accuracies if found.cell is cell), None)

    def ranks_of(self, cell: Cell) -> Ranks | None:
        return next((found for found in self.ranks if found.cell is cell), None)

    def utilisation(self, point: Point) -> Utilisation | None:
        """None where the model's FLOPs are not known."""
        recipe, cell = self.recipe(point.cell), point.cell
        if recipe is None or recipe.training_flops is None:
            return None
        count, size = recipe.training_flops, cell.world_size
        flops = through(
            point.images_per_second, lambda x: flops_per_device(x, count, size)
        )
        setting = cell.setting
        peak = self.options.peak_flops
        if peak is None and SEVERAL not in setting.device:
            peak = peak_flops(setting.device, setting.precision)
        if peak is None:
            reason = f"no peak is known of {setting.device} in {setting.precision}"
            return Utilisation(flops, None, f"{reason}; give --peak-flops")
        return Utilisation(flops, through(flops, lambda x: x / peak), "")


def gather(
    roots: Sequence[Path], options: Options, left_out: Iterable[LeftOut] = ()
) -> Report:
    """Read all that lies at or below some folders.

    Args:
      left_out: what was so before it became a folder.

    Raises:
      RecordError: if a folder is missing, or holds neither run nor parity check.
    """
    found = find(roots)
    runs, no_runs = read_timed_runs(found.runs)
    left_out = [*left_out, *no_runs]
    checks, no_checks = read_checks(found.checks)
    studies = []
    for folder in found.studies:
        try:
            study, missing = read_study(folder)
            studies.append(study)
            left_out += missing
        except RecordError as error:
            left_out.append(LeftOut(str(folder), str(error)))
    return make_report(
        runs, [*left_out, *no_checks, *found.left_out], checks, studies, roots, options
    )


def make_report(
    runs: Sequence[TimedRun],
    left_out: Sequence[LeftOut] = (),
    checks: Sequence[Check] = (),
    studies: Sequence[Study] = (),
    roots: Sequence[Path] = (),
    options: Options | None = None,
) -> Report:
    """What runs show together, and what speaks for it."""
    options = options or Options()
    recipes, no_recipes = _recipes(runs)
    runs = told_apart(runs, recipes)
    found = scaling([run for run in runs if not run.ablated], options.base)
    groups, common = grouped(found.curves, found.versus)
    points = [point for curve in found.curves for point in curve.points]
    cells = list({id(point.cell): point.cell for point in points}.values())
    ablated = [run for run in runs if run.ablated]
    arms, no_arms = arms_of(ablated, cells, recipes)
    rows, no_rows = _rows([*(run for cell in cells for run in cell.runs), *ablated])
    parts = [
        breakdown(cell, [rows[run.path] for run in cell.runs], arms.get(id(cell), {}))
        for cell in cells
    ]
    scores = [accuracy(c, [rows[r.path].evaluated for r in c.runs]) for c in cells]
    ranks = [_ranks(cell, rows, arms.get(id(cell), {})) for cell in cells]
    left = (*left_out, *no_recipes, *no_arms, *no_rows, *found.left_out)
    return Report(
        scaling=Scaling(found.curves, found.versus, left),
        groups=tuple(groups),
        common=common,
        checks=tuple(checks),
        studies=tuple(studies),
        claims=tuple(
            Claim(v, *_proven(v.torch, recipes, checks), _timed(v, rows))
            for v in found.versus
        ),
        recipes=recipes,
        times={
            group.title: tuple(_times(group, rows, options.target)) for group in groups
        },
        accuracies=tuple(filter(None, scores)),
        breakdowns=tuple(filter(None, parts)),
        data_costs=tuple(real_over_synthetic(cells)),
        compiled=tuple(
            _compiled(ratio, recipes, checks) for ratio in compiled_over_eager(cells)
        ),
        ranks=tuple(filter(None, ranks)),
        projections=tuple(_project(curve, options) for curve in found.curves),
        roots=tuple(roots),
        options=options,
    )


def _recipes(runs: Iterable[TimedRun]) -> tuple[dict[str, Recipe], list[LeftOut]]:
    """Recipes by their hash, each read once."""
    recipes: dict[str, Recipe] = {}
    left_out: list[LeftOut] = []
    seen: set[str] = set()
    for run in runs:
        if run.config_hash not in seen:
            seen.add(run.config_hash)
            try:
                recipes[run.config_hash] = read_recipe(run.path)
            except RecordError as error:
                why = f"no FLOPs, and no parity check is found for it: {error}"
                left_out.append(LeftOut(f"recipe {run.config_hash[:12]}", why))
    return recipes, left_out


def _proven(
    cell: Cell, recipes: Mapping[str, Recipe], checks: Sequence[Check]
) -> tuple[Check | None, str]:
    """The check that comparisons of PyTorch's cell stand on; why they are withheld."""
    recipe = recipes.get(cell.runs[0].config_hash)
    check = check_of(cell, recipe, checks)
    failed = [check for check in checks if check.verdict not in PASSES]
    reason = ""
    if check is None:
        reason = _unchecked(cell, recipe, checks)
    elif check.verdict not in PASSES:
        reason = f"its parity check is {check.verdict}"
    elif failed:  # one bug of a framework is rarely of one recipe alone
        reason = f"the parity check of {failed[0].name} is {failed[0].verdict}"
    return check, reason


def _timed(versus: Versus, rows: Mapping[Path, Rows]) -> float:
    """The seconds that the shortest run of a comparison was timed for."""
    return min(
        sum(window.seconds for window in rows[run.path].windows)
        for cell in (versus.jax, versus.torch)
        for run in cell.runs
    )


def _compiled(
    ratio: Ratio, recipes: Mapping[str, Recipe], checks: Sequence[Check]
) -> Compiled:
    compiled, eager = (_proven(c, recipes, checks) for c in (ratio.cell, ratio.under))
    both = tuple(check for check, _ in (compiled, eager) if check is not None)
    return Compiled(ratio, both, compiled[1] or eager[1])


def _unchecked(cell: Cell, recipe: Recipe | None, checks: Sequence[Check]) -> str:
    """Why no parity check answers for a cell."""
    setting = cell.setting
    of = (
        f"{setting.experiment} in {setting.precision} with parallel={setting.parallel}"
        f"{' and compile=true' * setting.beside_eager}"
    )
    near = next((check for check in checks if check.is_called_like(cell)), None)
    if near is None:
        return f"no parity check of {of} is among the folders"
    if recipe is None:
        return f"whether the parity check of {of} is of its recipe cannot be read"
    parts = " and ".join(near.differences(cell, recipe))
    return f"the parity check of {of} is of other {parts}: {near.path}"


def _rows(runs: Iterable[TimedRun]) -> tuple[dict[Path, Rows], list[LeftOut]]:
    """Every run's windows and evaluations, by its folder."""
    rows: dict[Path, Rows] = {}
    left_out: list[LeftOut] = []
    for run in runs:
        if run.path in rows:
            continue
        try:
            rows[run.path] = read_between_steps(run.path, run.windows)
        except RecordError as error:
            rows[run.path] = NOTHING
            why = f"neither accuracies nor parts of a step: {error}"
            left_out.append(LeftOut(str(run.path), why))
    return rows, left_out


def _ranks(
    cell: Cell, rows: Mapping[Path, Rows], arms: Mapping[str, Sequence[TimedRun]]
) -> Ranks | None:
    """Without the exchange, where that was timed."""
    alone = EXCHANGE in arms
    runs = arms[EXCHANGE] if alone else cell.runs
    return rank_times(cell, alone, [rows[run.path] for run in runs])


def _times(
    group: Group, rows: Mapping[Path, Rows], target: float | None
) -> list[TimeTo]:
    cells = [point.cell for curve in group.curves for point in curve.points]
    found = {id(c): [rows[run.path].evaluated for run in c.runs] for c in cells}
    if target is None:
        target = common_target(one for cell in cells for one in found[id(cell)])
    if target is None:
        return []
    return [time_to(cell, found[id(cell)], target) for cell in cells]


def _project(curve: Curve, options: Options) -> Projection:
    """The model on a curve that begins with one device."""
    setting = curve.setting
    gpus = curve.points[0].cell.runs[0].environment.get("gpus") or {}
    net = options.interconnect
    if net is None and SEVERAL not in setting.device:
        net = assumed_interconnect(setting.device, gpus.get("links", ()))
    reason = ""
    if curve.base is None:
        reason = curve.reason
    elif curve.base != 1 or curve.regime == SINGLE:
        reason = "the model begins with the step of one device"
    elif net is None:
        reason = (
            f"how {setting.device} is joined to others is not known; measure it "
            "(benchmarks/all_reduce.py) or name a machine, and give --interconnect"
        )
    if reason or net is None:
        return Projection(curve, net, reason=reason)
    one = curve.points[0]
    run = one.cell.runs[0]
    measured = {p.cell.world_size: p.images_per_second.value for p in curve.points}
    strong = curve.regime != WEAK
    # Of a global batch that stays, a device has one example at least.
    most = min(1024, run.global_batch) if strong else 1024
    sizes = {2**power for power in range(11) if 2**power <= most}
    points = project(
        compute_seconds=run.global_batch / one.images_per_second.value,
        device_batch=run.global_batch,
        gradient_bytes=gradient_bytes(run.parameters, setting.precision),
        exchange=exchange_of(setting.framework, setting.parallel),
        net=net,
        devices=sorted(sizes | measured.keys()),
        strong=strong,
    )
    errors = {
        p.devices: p.images_per_second / measured[p.devices] - 1
        for p in points
        if p.devices in measured and p.devices > 1
    }
    return Projection(curve, net, tuple(points), errors)
