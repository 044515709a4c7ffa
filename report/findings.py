"""Everything that a report shows, from run folders alone, before any of it is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipe.errors import RecordError
from report.accuracy import (
    Evaluated,
    TimeTo,
    common_target,
    read_evaluated,
    time_to,
)
from report.cells import Cell
from report.checks import Check, check_of, read_checks
from report.groups import Group, grouped
from report.intervals import Estimate
from report.parity import IDENTICAL
from report.peaks import flops_per_device, peak_flops
from report.projection import (
    INTERCONNECTS,
    Interconnect,
    Projected,
    gradient_bytes,
    project,
)
from report.recipes import Recipe, read_recipe
from report.runs import LeftOut, TimedRun, find, read_timed_runs
from report.scaling import (
    SINGLE,
    WEAK,
    Curve,
    Point,
    Scaling,
    Versus,
    scaling,
    through,
)
from report.studies import Study, read_study


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
    """

    versus: Versus
    check: Check | None
    withheld: str


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
        peak = self.options.peak_flops or peak_flops(setting.device, setting.precision)
        if peak is None:
            reason = f"no peak is known of {setting.device} in {setting.precision}"
            return Utilisation(flops, None, f"{reason}; give --peak-flops")
        return Utilisation(flops, through(flops, lambda x: x / peak), "")


def gather(roots: Sequence[Path], options: Options) -> Report:
    """Read all that lies at or below some folders.

    Raises:
      RecordError: if a folder is missing, or holds neither run nor parity check.
    """
    found = find(roots)
    runs, left_out = read_timed_runs(found.runs)
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
    found = scaling(runs, options.base)
    groups, common = grouped(found.curves, found.versus)
    evaluated, no_rows = _evaluated(found)
    left = (*left_out, *no_recipes, *no_rows, *found.left_out)
    return Report(
        scaling=Scaling(found.curves, found.versus, left),
        groups=tuple(groups),
        common=common,
        checks=tuple(checks),
        studies=tuple(studies),
        claims=tuple(_claim(v, recipes, checks) for v in found.versus),
        recipes=recipes,
        times={
            group.title: tuple(_times(group, evaluated, options.target))
            for group in groups
        },
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


def _claim(
    versus: Versus, recipes: Mapping[str, Recipe], checks: Sequence[Check]
) -> Claim:
    recipe = recipes.get(versus.jax.runs[0].config_hash)
    check = check_of(versus.torch, recipe, checks)
    if check is None:
        setting = versus.torch.setting
        return Claim(
            versus,
            None,
            f"no parity check of {setting.experiment} in {setting.precision} with "
            f"parallel={setting.parallel}{' and compile=true' * setting.beside_eager} "
            "is among the folders",
        )
    failed = (
        "" if check.verdict == IDENTICAL else f"its parity check is {check.verdict}"
    )
    return Claim(versus, check, failed)


def _evaluated(found: Scaling) -> tuple[dict[Path, Evaluated], list[LeftOut]]:
    """Every run's test accuracies, by its folder."""
    evaluated: dict[Path, Evaluated] = {}
    left_out: list[LeftOut] = []
    for curve in found.curves:
        for run in (run for point in curve.points for run in point.cell.runs):
            if run.path in evaluated:
                continue
            try:
                evaluated[run.path] = read_evaluated(run.path)
            except RecordError as error:
                evaluated[run.path] = Evaluated((), ())
                left_out.append(LeftOut(str(run.path), f"no accuracies: {error}"))
    return evaluated, left_out


def _times(
    group: Group, evaluated: Mapping[Path, Evaluated], target: float | None
) -> list[TimeTo]:
    cells = [point.cell for curve in group.curves for point in curve.points]
    if target is None:
        target = common_target(evaluated[r.path] for cell in cells for r in cell.runs)
    if target is None:
        return []
    return [time_to(c, [evaluated[r.path] for r in c.runs], target) for c in cells]


def _project(curve: Curve, options: Options) -> Projection:
    """The model on a curve that begins with one device."""
    setting = curve.setting
    net = options.interconnect or _known_interconnect(setting.device)
    reason = ""
    if curve.base is None:
        reason = curve.reason
    elif curve.base != 1 or curve.regime == SINGLE:
        reason = "the model begins with the step of one device"
    elif setting.parallel == "fsdp":
        reason = "the model is of an all-reduce, and fsdp gathers and scatters instead"
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


def _known_interconnect(device: str) -> Interconnect | None:
    for chip, name in (
        ("H100", "dgx-h100"),
        ("A100", "dgx-a100"),
        ("V100", "dgx-1-v100"),
    ):
        if chip in device:
            return INTERCONNECTS[name]
    return None
