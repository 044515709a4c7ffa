"""Everything that a report shows, from run folders alone, before any of it is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from report.analysis.bandwidth import Panel, bandwidth_panels
from report.analysis.breakdown import (
    Breakdown,
    Ranks,
    Ratio,
    ablations_of,
    breakdown,
    rank_times,
    real_over_synthetic,
)
from report.analysis.cells import Cell
from report.analysis.checks import (
    Check,
    LossCurve,
    Study,
    read_check,
    read_loss_curve,
    read_study,
)
from report.analysis.comparisons import (
    SpeedComparison,
    compiled_against_eager,
    jax_against_torch,
)
from report.analysis.groups import Group, grouped
from report.analysis.hardware import Utilisation, utilisation
from report.analysis.interconnects import Interconnect
from report.analysis.links import RunLink, read_link
from report.analysis.projection import Projection, project_curve
from report.analysis.recipes import Recipe, read_recipe
from report.analysis.runs import (
    ABLATIONS,
    GRAD_SYNC,
    Skipped,
    TimedRun,
    find,
    read_each,
    read_timed_runs,
)
from report.analysis.scaling import Curve, Point, Scaling, scaling
from report.analysis.sweeps import with_varied
from report.analysis.timings import (
    NOTHING,
    Accuracy,
    Evaluated,
    Rows,
    TimeTo,
    accuracy,
    common_target,
    read_between_steps,
    time_to,
)

MOST_GROUPS = 12  # that are drawn: a hundred figures are none
OfCell = TypeVar("OfCell")


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
    """All that a set of runs shows.

    Args:
      scaling: cells, curves and what was skipped.
      groups: its curves as they are drawn.
      common: what is the same in all groups, by what it is called.
      comparisons: of speeds, JAX against PyTorch.
      recipes: by config_hash.
      times: to an accuracy, of the cells of each group that has one, by its title.
      accuracies: over seeds, of each cell that has one.
      breakdowns: of the step, of each cell that was measured in parts.
      data_costs: of cells on real data over those on synthetic images.
      compiled: PyTorch's cells over those of eager PyTorch.
      ranks: of each cell that has several.
      losses: of each drawn group without a parity check, by title.
      panels: of the runs over links of a chosen bandwidth, which are on no curve.
      roots: the folders that it was made of.
    """

    scaling: Scaling
    groups: tuple[Group, ...]
    common: Mapping[str, str]
    checks: tuple[Check, ...]
    studies: tuple[Study, ...]
    comparisons: tuple[SpeedComparison, ...]
    recipes: Mapping[str, Recipe]
    times: Mapping[str, Mapping[Cell, TimeTo]]
    accuracies: Mapping[Cell, Accuracy]
    breakdowns: Mapping[Cell, Breakdown]
    data_costs: tuple[Ratio, ...]
    compiled: tuple[SpeedComparison, ...]
    ranks: Mapping[Cell, Ranks]
    projections: tuple[Projection, ...]
    losses: Mapping[str, tuple[LossCurve, ...]]
    panels: tuple[Panel, ...]
    roots: tuple[Path, ...]
    options: Options

    @property
    def scaled(self) -> list[Group]:
        """The groups of curves over devices: all except sweeps."""
        return [group for group in self.groups if not group.is_sweep]

    @property
    def drawn(self) -> list[Group]:
        """The groups that figures show."""
        return self.scaled[:MOST_GROUPS]

    @property
    def runs(self) -> list[TimedRun]:
        """Every run that a figure is made of, once."""
        cells = [p.cell for curve in self.scaling.curves for p in curve.points]
        cells += [point.cell for panel in self.panels for point in panel.points]
        return list({run.path: run for cell in cells for run in cell.runs}.values())

    def projection_of(self, curve: Curve) -> Projection:
        return next(found for found in self.projections if found.curve is curve)

    def comparisons_in(self, group: Group) -> list[SpeedComparison]:
        """Those of the group's cells that are not withheld."""
        inside = {id(point.cell.runs) for _, point in group.points}
        return [
            c
            for c in self.comparisons
            if not c.withheld and {id(c.cell.runs), id(c.under.runs)} <= inside
        ]

    def breakdowns_of(self, group: Group) -> list[tuple[str, Breakdown]]:
        """With the curve's label; none where no ablation of the group was measured."""
        found = [
            (label, self.breakdowns[point.cell])
            for label, point in group.points
            if point.cell in self.breakdowns
        ]
        measured = any(of.fractions.keys() & {*ABLATIONS.values()} for _, of in found)
        return found if measured else []

    def utilisation(self, point: Point) -> Utilisation | None:
        """None where the model's FLOPs are not known."""
        cell = point.cell
        recipe = self.recipes.get(cell.runs[0].config_hash)
        if recipe is None or recipe.training_flops is None:
            return None
        return utilisation(
            point.images_per_second,
            recipe.training_flops,
            cell.world_size,
            cell.setting.device,
            cell.setting.precision,
            self.options.peak_flops,
        )


def gather(
    roots: Sequence[Path], options: Options, skipped: Iterable[Skipped] = ()
) -> Report:
    """Read everything at or below some folders.

    Args:
      skipped: what was skipped before it became a folder.

    Raises:
      RecordError: if a folder is missing, or holds neither run nor parity check.
    """
    found = find(roots)
    runs, no_runs = read_timed_runs(found.runs)
    environments = {run.path: run.environment for run in runs}
    linked, no_links = read_each(lambda p: read_link(p, environments[p]), environments)
    runs = [run for run in runs if run.path in linked]
    links = {path: link for path, link in linked.items() if link is not None}
    checks, no_checks = read_each(read_check, found.checks)
    studies, no_studies = read_each(read_study, found.studies)
    missing = [out for _, cells in studies.values() for out in cells]
    skipped = [
        *skipped,
        *no_runs,
        *no_links,
        *missing,
        *no_studies,
        *no_checks,
        *found.skipped,
    ]
    plans = [study for study, _ in studies.values()]
    return make_report(runs, skipped, [*checks.values()], plans, roots, options, links)


def make_report(
    runs: Sequence[TimedRun],
    skipped: Sequence[Skipped] = (),
    checks: Sequence[Check] = (),
    studies: Sequence[Study] = (),
    roots: Sequence[Path] = (),
    options: Options | None = None,
    links: Mapping[Path, RunLink] | None = None,
) -> Report:
    """What the runs show together, and the evidence for it.

    Args:
      links: of the runs over links, by their folder.
    """
    options, links = options or Options(), links or {}
    recipes, no_recipes = _recipes(runs)
    over_links = [run for run in runs if run.path in links]
    runs = with_varied([run for run in runs if run.path not in links], recipes)
    found = scaling([run for run in runs if not run.ablated], options.base)
    groups, common = grouped(found.curves)
    points = [point for curve in found.curves for point in curve.points]
    cells = list(dict.fromkeys(point.cell for point in points))
    ablated = [run for run in runs if run.ablated]
    ablations, no_ablations = ablations_of(ablated, cells, recipes)
    timed = [*(run for cell in cells for run in cell.runs), *ablated, *over_links]
    rows, no_rows = _rows(timed)
    panels, no_panels = bandwidth_panels(over_links, links, recipes, rows, checks)
    of = {cell: [rows[run.path] for run in cell.runs] for cell in cells}
    evaluated = {cell: [run.evaluated for run in runs] for cell, runs in of.items()}
    left = (*skipped, *no_recipes, *no_ablations, *no_rows, *found.skipped, *no_panels)
    return Report(
        scaling=replace(found, skipped=left),
        groups=tuple(groups),
        common=common,
        checks=tuple(checks),
        studies=tuple(studies),
        comparisons=tuple(jax_against_torch(found.cells, rows, recipes, checks)),
        recipes=recipes,
        times={g.title: _times(g, evaluated, options.target) for g in groups},
        accuracies=_known((c, accuracy(c, evaluated[c])) for c in cells),
        breakdowns=_known(
            (c, breakdown(c, of[c], ablations.get(c, {}))) for c in cells
        ),
        data_costs=tuple(real_over_synthetic(cells)),
        compiled=tuple(compiled_against_eager(cells, recipes, checks)),
        ranks=_known((c, _ranks(c, rows, ablations.get(c, {}))) for c in cells),
        projections=tuple(project_curve(c, options.interconnect) for c in found.curves),
        losses={} if checks else _losses(groups),
        panels=tuple(panels),
        roots=tuple(roots),
        options=options,
    )


def _known(found: Iterable[tuple[Cell, OfCell | None]]) -> dict[Cell, OfCell]:
    return {cell: value for cell, value in found if value is not None}


def _recipes(runs: Iterable[TimedRun]) -> tuple[dict[str, Recipe], list[Skipped]]:
    """Recipes by their hash, each read once."""
    first: dict[str, Path] = {}
    for run in runs:
        first.setdefault(run.config_hash, run.path)
    return read_each(
        lambda key: read_recipe(first[key]),
        first,
        lambda key: f"recipe {key[:12]}",
        "no FLOPs, and no parity check is found for it: ",
    )


def _rows(runs: Iterable[TimedRun]) -> tuple[dict[Path, Rows], list[Skipped]]:
    """Every run's windows and evaluations, by its folder."""
    rates = {run.path: run.windows for run in runs}
    rows, skipped = read_each(
        lambda path: read_between_steps(path, rates[path]),
        rates,
        without="neither accuracies nor parts of a step: ",
    )
    return dict.fromkeys(rates, NOTHING) | rows, skipped


def _ranks(
    cell: Cell, rows: Mapping[Path, Rows], ablations: Mapping[str, Sequence[TimedRun]]
) -> Ranks | None:
    """A cell's ranks, timed without the exchange where there is such an ablation."""
    alone = GRAD_SYNC in ablations
    runs = ablations[GRAD_SYNC] if alone else cell.runs
    return rank_times(cell, alone, [rows[run.path] for run in runs])


def _times(
    group: Group, evaluated: Mapping[Cell, list[Evaluated]], target: float | None
) -> dict[Cell, TimeTo]:
    cells = [point.cell for _, point in group.points]
    if target is None:
        target = common_target(run for cell in cells for run in evaluated[cell])
    if target is None:
        return {}
    return {cell: time_to(cell, evaluated[cell], target) for cell in cells}


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
