"""Findings -> charts: rows of numbers, which are drawn and written as CSV alike.

A figure shows its chart's rows and nothing else, so the CSV behind it is what it shows.
"""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from recipe.errors import RecordError
from record.run import read_summary
from report.checks import MISSING, Check, loss_curve
from report.findings import Report
from report.groups import FRAMEWORKS, Group, program
from report.intervals import Estimate
from report.scaling import WEAK, Curve, Point

# What is drawn how: dashed is a model and nothing else, dotted is a bound.
MEASURED, MODEL, BOUND = "measured", "model", "bound"
MOST_GROUPS = 12  # that are drawn: a hundred figures are none
POINTS, STEPS, LINES = "points", "steps", "lines"  # how rows of a series are joined

LOSSES, FAST, SCALES, HOLDS_BACK, FURTHER = (
    "losses",
    "fast",
    "scales",
    "holds back",
    "further",
)


@dataclass(frozen=True)
class Row:
    """One mark of a figure.

    Args:
      series: as the legend has it.
      framework: "torch", "jax", or "" for what is neither's.
      kind: MEASURED, MODEL or BOUND.
      x, y: in the chart's units; low and high the ends of y's interval.
      emphasis: 1, or less for a series that stands behind another.
    """

    series: str
    framework: str
    kind: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    emphasis: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure before it is drawn.

    Args:
      name: of its files, without suffix.
      section: of the page that it belongs to.
      title: what it shows, and of what.
      says: what a reader should look for.
      joined: POINTS with intervals, STEPS of a distribution, or plain LINES.
      one: a horizontal line that stands for "no difference", where there is one.
      from_zero: whether y's axis begins at 0, so that heights can be compared.
    """

    name: str
    section: str
    title: str
    x_label: str
    y_label: str
    says: str
    rows: tuple[Row, ...]
    joined: str = POINTS
    log_x: bool = False
    log_y: bool = False
    one: float | None = None
    from_zero: bool = False


def to_csv(chart: Chart) -> str:
    """The chart's rows with a header; an empty field is an end that there is not."""
    text = io.StringIO()
    names = [f.name for f in fields(Row) if f.name != "emphasis"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names[:3], chart.x_label, chart.y_label, *names[5:]])
    for row in chart.rows:
        writer.writerow([getattr(row, name) for name in names])
    return text.getvalue()


def charts(report: Report) -> list[Chart]:
    """Every figure of a report, in the page's order; the tables have all groups."""
    drawn = report.groups[:MOST_GROUPS]
    makers = (_throughput, _ratio, _accuracy, _efficiency, _serial_fraction)
    makers = (*makers, _step_times, _utilisation, _projection)
    found = [_losses(check) for check in report.checks]
    found += [_unchecked_losses(group) for group in drawn if not report.checks]
    found += [make(report, group) for make in makers for group in drawn]
    return [chart for chart in found if chart is not None and chart.rows]


def _losses(check: Check) -> Chart | None:
    """What a parity check compared, one curve over the other."""
    title = f"{check.experiment} in {check.precision}: {check.verdict}"
    name = f"losses-{check.precision}-{check.parallel}-{check.recipe.workload[:6]}"
    says = (
        "Training loss of every run that the check compared. The frameworks' curves "
        "lie on each other where they train the same thing."
    )
    runs = []
    for path in check.runs:
        summary = read_summary(path)
        ranks = f", {summary['processes']} processes" * (summary["processes"] > 1)
        label = f"{FRAMEWORKS[summary['framework']]} ×{summary['world_size']}{ranks}"
        runs.append((label, summary["framework"], path))
    return _loss_chart(name, title, says, runs)


def _unchecked_losses(group: Group) -> Chart | None:
    first = [(group.label(c), c.points[0].cell.runs[0]) for c in group.curves]
    says = (
        "Training loss of the first repeat of each. No parity check is among the "
        "folders, so nothing says whether these are the same training."
    )
    title = f"{group.title}: {MISSING}"
    runs = [(label, run.framework, run.path) for label, run in first]
    return _loss_chart(f"losses-{group.name}", title, says, runs)


def _loss_chart(
    name: str, title: str, says: str, runs: Sequence[tuple[str, str, Path]]
) -> Chart:
    """Of runs with their labels and frameworks."""
    rows = []
    # PyTorch's first, wide, so that what lies on it can be seen to do so.
    for label, framework, path in sorted(
        runs, key=lambda run: (run[1] != "torch", run)
    ):
        with contextlib.suppress(RecordError):  # named among what was left out
            rows += [
                Row(label, framework, MEASURED, step, loss)
                for step, loss in enumerate(loss_curve(path), start=1)
            ]
    return Chart(
        name=name,
        section=LOSSES,
        title=title,
        x_label="optimizer step",
        y_label="training loss",
        says=says,
        rows=tuple(rows),
        joined=LINES,
        from_zero=True,
    )


def _throughput(report: Report, group: Group) -> Chart:
    rows = list(_of_points(group, lambda p: p.images_per_second))
    for curve in group.curves:
        if curve.base is None:
            continue
        first, last = curve.points[0], curve.points[-1]
        rate = first.images_per_second.value / first.cell.world_size
        framework = curve.setting.framework
        rows += [
            Row(f"{group.label(curve)}, ideal", framework, BOUND, size, rate * size)
            for size in (first.cell.world_size, last.cell.world_size)
        ]
    return Chart(
        name=f"throughput-{group.name}",
        section=FAST,
        title=f"Throughput: {group.title}",
        x_label="devices",
        y_label="images/s",
        says="Higher is faster. Dotted: what as many single devices would do.",
        rows=tuple(rows),
        log_x=True,
        log_y=True,
    )


def _ratio(report: Report, group: Group) -> Chart:
    inside = {id(versus) for versus in group.versus}
    rows = [
        Row(
            f"JAX over {program(claim.versus.torch.setting)}",
            "",
            MEASURED,
            claim.versus.jax.world_size,
            claim.versus.difference.ratio.value,
            claim.versus.difference.ratio.low,
            claim.versus.difference.ratio.high,
        )
        for claim in report.claims
        if id(claim.versus) in inside and not claim.withheld
    ]
    return Chart(
        name=f"ratio-{group.name}",
        section=FAST,
        title=f"JAX over PyTorch: {group.title}",
        x_label="devices",
        y_label="ratio of images/s",
        says=(
            "Above 1 JAX is faster, below 1 PyTorch. An interval that holds 1 shows "
            "no difference."
        ),
        rows=tuple(sorted(rows, key=lambda row: row.x)),
        log_x=True,
        from_zero=True,
        one=1.0,
    )


def _accuracy(report: Report, group: Group) -> Chart | None:
    times = {id(t.cell): t for t in report.times[group.title]}
    if not times:
        return None

    def seconds(point: Point) -> Estimate | None:
        return times[id(point.cell)].seconds

    target = next(iter(times.values())).target
    return Chart(
        name=f"time-to-accuracy-{group.name}",
        section=FAST,
        title=f"Time to test accuracy {target:g}: {group.title}",
        x_label="devices",
        y_label="seconds of training",
        says="Lower is faster. Compilation, start-up and evaluation are left out.",
        rows=tuple(_of_points(group, seconds)),
        log_x=True,
        from_zero=True,
    )


def _efficiency(report: Report, group: Group) -> Chart:
    return Chart(
        name=f"efficiency-{group.name}",
        section=SCALES,
        title=f"Efficiency: {group.title}",
        x_label="devices",
        y_label="speed-up over devices",
        says="1 is ideal: twice the devices, twice the images per second.",
        rows=tuple(_of_points(group, lambda p: p.efficiency)),
        log_x=True,
        from_zero=True,
        one=1.0,
    )


def _serial_fraction(report: Report, group: Group) -> Chart:
    weak = group.curves[0].regime == WEAK
    return Chart(
        name=f"serial-fraction-{group.name}",
        section=HOLDS_BACK,
        title=f"{'Gustafson' if weak else 'Karp–Flatt'}: {group.title}",
        x_label="devices",
        y_label="serial fraction s(p)" if weak else "serial fraction e(p)",
        says=(
            "Flat: a part of each step does not scale. Rising: an overhead grows with "
            "the devices. 0 is ideal, below it is faster than ideal."
        ),
        rows=tuple(_of_points(group, lambda p: p.serial_fraction)),
        log_x=True,
        one=0.0,
    )


def _step_times(report: Report, group: Group) -> Chart:
    """Of the fewest devices and of the most; a line for each size would hide both."""
    rows: list[Row] = []
    for curve in group.curves:
        ends = [curve.points[0]]
        ends += [curve.points[-1]] if len(curve.points) > 1 else []
        for number, point in enumerate(ends):
            cell = point.cell
            rates = np.concatenate([run.windows for run in cell.runs])
            times = np.sort(1000 * cell.global_batch / rates)
            shares = np.arange(1, len(times) + 1) / len(times)
            name = f"{group.label(curve)} ×{cell.world_size}"
            rows += [
                Row(
                    name,
                    curve.setting.framework,
                    MEASURED,
                    float(time),
                    float(share),
                    emphasis=1.0 if number else 0.4,
                )
                for time, share in zip(times, shares, strict=True)
            ]
    return Chart(
        name=f"step-time-{group.name}",
        section=HOLDS_BACK,
        title=f"Step time: {group.title}",
        x_label="ms per step, mean of a timed window on its slowest rank",
        y_label="share of windows no slower",
        says=(
            "Steep: every step takes as long. A long tail to the right: some wait, for "
            "the machine or for each other."
        ),
        rows=tuple(rows),
        joined=STEPS,
        log_x=True,
    )


def _utilisation(report: Report, group: Group) -> Chart:
    used = {
        id(point): report.utilisation(point)
        for curve in group.curves
        for point in curve.points
    }
    known = all(use is not None and use.share is not None for use in used.values())

    def figure(point: Point) -> Estimate | None:
        use = used[id(point)]
        return None if use is None else use.share if known else use.flops

    return Chart(
        name=f"utilisation-{group.name}",
        section=HOLDS_BACK,
        title=f"{'MFU' if known else 'FLOP/s of a device'}: {group.title}",
        x_label="devices",
        y_label="share of the device's peak" if known else "FLOP/s per device",
        says=(
            "What the model's own matrix products take of a device"
            + (", over its data sheet's peak." if known else "; its peak is not known.")
        ),
        rows=tuple(_of_points(group, figure)),
        log_x=True,
        from_zero=True,
    )


def _projection(report: Report, group: Group) -> Chart:
    projections = {id(p.curve): p for p in report.projections}
    rows: list[Row] = []
    for curve in group.curves:
        projection, label = projections[id(curve)], group.label(curve)
        if not projection.points:
            continue
        rows += _of_curve(curve, label, lambda p: p.images_per_second)
        rows += [
            Row(
                f"{label}, model",
                curve.setting.framework,
                MODEL,
                point.devices,
                point.images_per_second,
            )
            for point in projection.points
        ]
    return Chart(
        name=f"projection-{group.name}",
        section=FURTHER,
        title=f"Projection, a model: {group.title}",
        x_label="devices",
        y_label="images/s",
        says=(
            "Points are measured; what is dashed is a model of computation and "
            "all-reduce alone, and so an upper bound."
        ),
        rows=tuple(rows),
        log_x=True,
        log_y=True,
    )


def _of_points(
    group: Group, figure: Callable[[Point], Estimate | None]
) -> Iterator[Row]:
    for curve in group.curves:
        yield from _of_curve(curve, group.label(curve), figure)


def _of_curve(
    curve: Curve, label: str, figure: Callable[[Point], Estimate | None]
) -> Iterator[Row]:
    for point in curve.points:
        estimate = figure(point)
        if estimate is not None:
            yield Row(
                label,
                curve.setting.framework,
                MEASURED,
                point.cell.world_size,
                estimate.value,
                estimate.low,
                estimate.high,
            )
