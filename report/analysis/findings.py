"""Everything that a report shows, from run folders alone, before any of it is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

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
from report.analysis.checks import Check, LossCurve, read_check, read_loss_curve
from report.analysis.claims import Claim, Compiled, claim_of, compiled_of
from report.analysis.groups import Group, grouped
from report.analysis.hardware import Utilisation, utilisation
from report.analysis.interconnects import Interconnect
from report.analysis.projection import Projection, project_curve
from report.analysis.recipes import Recipe, read_recipe
from report.analysis.runs import (
    ARMS,
    EXCHANGE,
    LeftOut,
    TimedRun,
    find,
    read_each,
    read_timed_runs,
)
from report.analysis.scaling import Curve, Point, Scaling, scaling
from report.analysis.studies import Study, read_study
from report.analysis.sweeps import told_apart
from report.analysis.timings import NOTHING, Rows, read_between_steps

MOST_GROUPS = 12  # that are drawn: a hundred figures are none


class _OfCell(Protocol):
    @property
    def cell(self) -> Cell: ...


OfCell = TypeVar("OfCell", bound=_OfCell)


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
      losses: of each drawn group without a parity check, by title.
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
    losses: Mapping[str, tuple[LossCurve, ...]]
    roots: tuple[Path, ...]
    options: Options

    @property
    def scaled(self) -> list[Group]:
        """The groups of curves over devices: all but sweeps."""
        return [group for group in self.groups if not group.is_sweep]

    @property
    def drawn(self) -> list[Group]:
        """The groups that figures show."""
        return self.scaled[:MOST_GROUPS]

    @property
    def runs(self) -> list[TimedRun]:
        """Every run that a figure is made of, once."""
        cells = [p.cell for curve in self.scaling.curves for p in curve.points]
        return list({run.path: run for cell in cells for run in cell.runs}.values())

    def recipe(self, cell: Cell) -> Recipe | None:
        return self.recipes.get(cell.runs[0].config_hash)

    def breakdown_of(self, cell: Cell) -> Breakdown | None:
        return _of_cell(self.breakdowns, cell)

    def accuracy_of(self, cell: Cell) -> Accuracy | None:
        return _of_cell(self.accuracies, cell)

    def ranks_of(self, cell: Cell) -> Ranks | None:
        return _of_cell(self.ranks, cell)

    def time_of(self, group: Group, cell: Cell) -> TimeTo | None:
        return _of_cell(self.times[group.title], cell)

    def projection_of(self, curve: Curve) -> Projection:
        return next(found for found in self.projections if found.curve is curve)

    def claims_in(self, group: Group) -> list[Claim]:
        """Those of the group's cells that are not withheld."""
        inside = {id(versus) for versus in group.versus}
        return [c for c in self.claims if id(c.versus) in inside and not c.withheld]

    def breakdowns_of(self, group: Group) -> list[tuple[str, Breakdown]]:
        """With the curve's label; none where no ablation of the group was measured."""
        of = [(label, self.breakdown_of(point.cell)) for label, point in group.points]
        found = [(label, parts) for label, parts in of if parts is not None]
        measured = any(
            part in parts.shares for _, parts in found for part in ARMS.values()
        )
        return found if measured else []

    def utilisation(self, point: Point) -> Utilisation | None:
        """None where the model's FLOPs are not known."""
        recipe, cell = self.recipe(point.cell), point.cell
        if recipe is None or recipe.training_flops is None:
            return None
        setting = cell.setting
        return utilisation(
            point.images_per_second,
            recipe.training_flops,
            cell.world_size,
            setting.device,
            setting.precision,
            self.options.peak_flops,
        )


def _of_cell(found: Iterable[OfCell], cell: Cell) -> OfCell | None:
    return next((one for one in found if one.cell is cell), None)


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
    checks, no_checks = read_each(read_check, found.checks)
    studies, no_studies = read_each(read_study, found.studies)
    missing = [out for _, cells in studies for out in cells]
    left_out = [*left_out, *no_runs, *missing, *no_studies, *no_checks, *found.left_out]
    return make_report(
        runs, left_out, checks, [study for study, _ in studies], roots, options
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
            claim_of(versus, rows, recipes, checks) for versus in found.versus
        ),
        recipes=recipes,
        times={
            group.title: tuple(_times(group, rows, options.target)) for group in groups
        },
        accuracies=tuple(filter(None, scores)),
        breakdowns=tuple(filter(None, parts)),
        data_costs=tuple(real_over_synthetic(cells)),
        compiled=tuple(
            compiled_of(ratio, recipes, checks) for ratio in compiled_over_eager(cells)
        ),
        ranks=tuple(filter(None, ranks)),
        projections=tuple(
            project_curve(curve, options.interconnect) for curve in found.curves
        ),
        losses={} if checks else _losses(groups),
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


def _losses(groups: Sequence[Group]) -> dict[str, tuple[LossCurve, ...]]:
    """Of each curve's first repeat, by the title of those groups that are drawn."""
    drawn = [group for group in groups if not group.is_sweep][:MOST_GROUPS]
    return {
        group.title: tuple(
            read_loss_curve(run.path, group.label(curve), run.framework)
            for curve in group.curves
            for run in curve.points[0].cell.runs[:1]
        )
        for group in drawn
    }
