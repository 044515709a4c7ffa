"""Findings -> charts: rows of numbers, which are drawn and written as CSV alike.

A figure shows its chart's rows and nothing else, so the CSV behind it is what it shows.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recipe.errors import RecordError
from record.run import read_summary
from report.analysis.cells import Cell
from report.analysis.checks import MISSING, Check, loss_curve
from report.analysis.findings import Projection, Report
from report.analysis.groups import FRAMEWORKS, Group, file_name, program
from report.analysis.intervals import Estimate
from report.analysis.scaling import WEAK, Curve, Point
from report.page import escape
from report.page.sentences import in_words

# What is drawn how: dashed is a model and nothing else, dotted is a bound.
MEASURED, MODEL, BOUND = "measured", "model", "bound"
MOST_GROUPS = 12  # that are drawn: a hundred figures are none
MOST_RANKS = 3  # of a curve: more lines hide each other

# How a figure shows its rows: medians over devices with their intervals; how steps are
# distributed; a line over steps; parts of a whole, stacked.
POINTS, DISTRIBUTION, LINES, BARS = "points", "distribution", "lines", "bars"
PEAK = "the device's peak"
NEAR = 10  # a bound that many times above the points would press them together
# How far beyond the points an interval is drawn, in what lies between the points.
BEYOND = 1.5

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
      panel: which it is in, where a figure has several.
      emphasis: 1, or less for a series that stands behind another.
    """

    series: str
    framework: str
    kind: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    panel: str = ""
    emphasis: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure before it is drawn.

    Args:
      name: of its files, without suffix.
      section: of the page that it belongs to.
      title: what it shows, and of what.
      says: what a reader should look for.
      shown: POINTS, DISTRIBUTION, LINES or BARS.
      one: a horizontal line that stands for "no difference", where there is one.
      from_zero: whether y's axis begins at 0, so that heights can be compared.
    """

    name: str
    section: str
    title: str
    y_label: str
    says: str
    rows: tuple[Row, ...]
    x_label: str = "devices"
    shown: str = POINTS
    log_y: bool = False
    one: float | None = None
    from_zero: bool = False

    @property
    def view(self) -> tuple[float, float]:
        """Where y's axis begins and ends.

        All points are inside, and as much of their intervals as leaves the points
        apart; one that is wider says that it is not sure, whatever its end.
        """
        points = [row.y for row in self.rows]
        if self.one is not None:
            points.append(self.one)
        ends = [
            end
            for row in self.rows
            for end in (row.low, row.high)
            if end is not None and (end > 0 or not self.log_y)
        ]
        values = np.array([min(points), max(points), *ends])
        low, high, *rest = np.log10(values) if self.log_y else values
        if self.from_zero:
            low = min(low, 0)
        span = (high - low) or abs(high) or 1
        if self.log_y:
            span = max(span, 1)
        bottom = max(min(rest, default=low), low - BEYOND * span)
        bottom = low if self.from_zero else min(low, bottom)
        top = max(high, min(max(rest, default=high), high + BEYOND * span))
        margin = 0.05 * (top - bottom or span)
        bottom, top = bottom - (0 if self.from_zero else margin), top + margin
        if self.log_y:
            bottom, top = 10.0**bottom, 10.0**top
        return float(bottom), float(top)

    def cut(self, row: Row) -> tuple[bool, bool]:
        """Whether a row's interval goes on below and above what is in view."""
        bottom, top = self.view
        return (
            row.low is not None and row.low < bottom,
            row.high is not None and row.high > top,
        )


def to_csv(chart: Chart) -> str:
    """The chart's rows with a header; an empty field is an end that there is not."""
    names = ["series", "framework", "kind", "x", "y", "low", "high"]
    names += ["panel"] * any(row.panel for row in chart.rows)
    labels = {"x": chart.x_label, "y": chart.y_label}
    head = [labels.get(name, name) for name in names]
    rows = ([getattr(row, name) for name in names] for row in chart.rows)
    return escape.to_csv([head, *rows])


def charts(report: Report) -> list[Chart]:
    """Every figure of a report, in the page's order; the tables have all groups."""
    drawn = [group for group in report.groups if not group.is_sweep][:MOST_GROUPS]
    makers = (_throughput, _ratio, _accuracy, _efficiency)
    makers = (*makers, _breakdown, _serial_fraction, _step_times, _rank_times)
    makers = (*makers, _utilisation, _projection)
    found = [_losses(check) for check in report.checks]
    found += [_unchecked_losses(group) for group in drawn if not report.checks]
    found += [make(report, group) for make in makers for group in drawn]
    return _apart([chart for chart in found if chart.rows])


def _apart(found: Sequence[Chart]) -> list[Chart]:
    """Charts of one name numbered, or one's files would be another's."""
    named: dict[str, Chart] = {}
    for chart in found:
        name, number = chart.name, 1
        while name in named:
            number += 1
            name = f"{chart.name}-{number}"
        named[name] = replace(chart, name=name)
    return list(named.values())


def _chart(
    group: Group, name: str, title: str, rows: Iterable[Row], **given: Any
) -> Chart:
    """A figure of one group's curves.

    Args:
      given: the chart's other fields.
    """
    name, title = f"{name}-{group.name}", f"{title}: {group.title}"
    chart = Chart(name=name, title=title, rows=tuple(rows), **given)
    if chart.shown == POINTS and any(any(chart.cut(row)) for row in chart.rows):
        told = "A triangle at the edge: the interval goes on beyond the figure."
        return replace(chart, says=f"{chart.says} {told}")
    return chart


def _losses(check: Check) -> Chart:
    """What a parity check compared, one curve over the other."""
    title = f"{check.experiment} in {check.precision}: {check.verdict}"
    of = f"{check.precision} {check.parallel} {check.recipe.workload[:6]}"
    says = (
        "Training loss of every run that the check compared, ×2 on two devices. The "
        "curves lie on each other where all train the same thing."
    )
    runs = []
    for path in check.runs:
        summary = read_summary(path)
        ranks = f", {summary['processes']} processes" * (summary["processes"] > 1)
        label = f"{FRAMEWORKS[summary['framework']]} ×{summary['world_size']}{ranks}"
        runs.append((label, summary["framework"], path))
    return _loss_chart(f"losses-{file_name(of)}", title, says, runs)


def _unchecked_losses(group: Group) -> Chart:
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
        try:
            losses = loss_curve(path)
        except RecordError as error:
            says += f" {label} is not drawn: {error}."
            continue
        rows += [
            Row(label, framework, MEASURED, step, loss)
            for step, loss in enumerate(losses, start=1)
        ]
    return Chart(
        name=name,
        section=LOSSES,
        title=title,
        x_label="optimizer step",
        y_label="training loss",
        says=says,
        rows=tuple(rows),
        shown=LINES,
        from_zero=True,
    )


def _throughput(report: Report, group: Group) -> Chart:
    rows = list(_of_points(group, lambda p: p.images_per_second))
    bounds, model, beyond = ["what as many single devices would do"], "", ""
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
        if modelled := _modelled(report, group, curve, last.cell.world_size):
            rows += modelled
            model = " Dashed, a model: what the interconnect allows of that."
    if (rate := _peak_rate(report, group)) is not None:
        points = [row for row in rows if row.kind == MEASURED]
        sizes = sorted({row.x for row in points})
        times = rate / max(row.y / row.x for row in points)
        if times < NEAR:
            bounds.append("and what the peak of each allows")
            rows += [Row(PEAK, "", BOUND, size, rate * size) for size in sizes]
        else:
            beyond = f" The devices' peak is {times:,.0f} times as high, and not drawn."
    return _chart(
        *(group, "throughput", "Throughput", rows),
        section=FAST,
        y_label="images/s",
        says=f"Higher is faster. Dotted: {', '.join(bounds)}.{model}{beyond}",
        log_y=True,
    )


def _peak_rate(report: Report, group: Group) -> float | None:
    """Images/s of one device at its peak; None where that is not known."""
    point = group.curves[0].points[0]
    use = report.utilisation(point)
    if use is None or use.share is None:
        return None
    return point.images_per_second.value / point.cell.world_size / use.share.value


def _ratio(report: Report, group: Group) -> Chart:
    inside = {id(versus) for versus in group.versus}
    rows = [
        _row(
            f"JAX over {program(versus.torch.setting)}",
            "",
            versus.jax.world_size,
            versus.difference.ratio,
        )
        for claim in report.claims
        if id(versus := claim.versus) in inside and not claim.withheld
    ]
    levels = " and ".join(sorted({v.difference.level for v in group.versus}))
    return _chart(
        *(group, "ratio", "JAX over PyTorch"),
        sorted(rows, key=lambda row: (row.series, row.x)),
        section=FAST,
        y_label="ratio of images/s",
        says=(
            "Above 1 JAX is faster, below 1 PyTorch. An interval that holds 1 shows "
            "no difference. The axis is logarithmic: twice as fast and half as fast "
            f"lie as far from 1. Intervals are of {levels}, for 95 % of all "
            "comparisons together."
        ),
        log_y=True,
        one=1.0,
    )


def _accuracy(report: Report, group: Group) -> Chart:
    times = {id(t.cell): t for t in report.times[group.title]}
    target = next((f" {t.target:g}" for t in times.values()), "")
    apart = sorted({t.steps_apart for t in times.values()})
    every = " to ".join(f"{steps:,}" for steps in dict.fromkeys(apart[:1] + apart[-1:]))

    def seconds(point: Point) -> Estimate | None:
        return times[id(point.cell)].seconds if times else None

    return _chart(
        *(group, "time-to-accuracy", f"Time to test accuracy{target}"),
        _of_points(group, seconds),
        section=FAST,
        y_label="seconds of training",
        says=(
            "Lower is faster. Compilation, start-up and evaluation are left out. "
            f"Evaluated every {every} steps: the time is known no finer."
        ),
        from_zero=True,
    )


def _efficiency(report: Report, group: Group) -> Chart:
    return _chart(
        *(group, "efficiency", "Efficiency"),
        _of_points(group, lambda p: p.efficiency),
        section=SCALES,
        y_label="speed-up over devices",
        says="1 is ideal: twice the devices, twice the images per second.",
        from_zero=True,
        one=1.0,
    )


def _breakdown(report: Report, group: Group) -> Chart:
    found = [
        (group.label(curve), parts)
        for curve in group.curves
        for point in curve.points
        if (parts := report.breakdown_of(point.cell)) is not None
    ]
    return _chart(
        *(group, "step-parts", "Where the time of a step goes"),
        (
            _row(part, of.cell.setting.framework, of.cell.world_size, share, label)
            for label, of in found
            for part, share in of.shares.items()
        ),
        section=HOLDS_BACK,
        y_label="share of a step",
        says=(
            "Each bar is a step on so many devices. Hatched is what was measured "
            "apart; filled is computation, and whatever was not. The vertical line is "
            "the interval of where the filled part ends."
        ),
        shown=BARS,
    )


def _serial_fraction(report: Report, group: Group) -> Chart:
    weak = group.curves[0].regime == WEAK
    return _chart(
        *(group, "serial-fraction"),
        f"Serial fraction ({'Gustafson' if weak else 'Karp–Flatt'})",
        _of_points(group, lambda p: p.serial_fraction),
        section=HOLDS_BACK,
        y_label="serial fraction s(p)" if weak else "serial fraction e(p)",
        says=(
            "Flat: a part of each step does not scale. Rising: an overhead grows with "
            "the devices. 0 is ideal, below it is faster than ideal."
        ),
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
            times = 1000 * cell.global_batch / rates
            name = f"{group.label(curve)} ×{cell.world_size}"
            rows += _distribution(
                name, cell, times.tolist(), emphasis=1.0 if number else 0.4
            )
    return _chart(
        *(group, "step-time", "Step time", rows),
        section=HOLDS_BACK,
        x_label="ms per step, mean of a timed window on its slowest rank",
        y_label="share of windows no slower",
        says=(
            "Steep: every step takes as long. A long tail to the right: some wait, for "
            "the machine or for each other."
        ),
        shown=DISTRIBUTION,
    )


def _rank_times(report: Report, group: Group) -> Chart:
    """Of the most devices: the slowest rank, the quickest, and one between them."""
    rows: list[Row] = []
    alone = True
    for curve in group.curves:
        found = report.ranks_of(curve.points[-1].cell)
        if found is None:
            continue
        alone = alone and found.alone
        times = found.times
        if len(times) > MOST_RANKS:
            times = (times[0], times[len(times) // 2], times[-1])
        for number, time in enumerate(times):
            name = f"{group.label(curve)}, rank {time.rank}"
            rows += _distribution(
                name, found.cell, time.milliseconds, emphasis=0.4 if number else 1.0
            )
    return _chart(
        *(group, "rank-time", "Each rank's step", rows),
        section=HOLDS_BACK,
        x_label="ms per step, mean of a timed window on one rank",
        y_label="share of windows no slower",
        says=(
            "Without the exchange, so that no rank waits for another: the one furthest "
            "to the right is the one that the others wait for."
            if alone
            else "Of whole steps, in which ranks wait for each other: whoever is slow, "
            "they lie close together. Runs without the exchange would tell them apart."
        ),
        shown=DISTRIBUTION,
    )


def _utilisation(report: Report, group: Group) -> Chart:
    used = {
        id(point): report.utilisation(point)
        for curve in group.curves
        for point in curve.points
    }
    peak = (
        "the peak that was given" if report.options.peak_flops else "its data sheet's"
    )
    known = all(use is not None and use.share is not None for use in used.values())

    def figure(point: Point) -> Estimate | None:
        use = used[id(point)]
        return None if use is None else use.share if known else use.flops

    rows = list(_of_points(group, figure))
    if known:
        ends = min(row.x for row in rows), max(row.x for row in rows)
        rows += [Row(PEAK, "", BOUND, x, 1.0) for x in ends]
    return _chart(
        *(group, "utilisation", "MFU" if known else "FLOP/s of a device", rows),
        section=HOLDS_BACK,
        y_label="share of the device's peak" if known else "FLOP/s per device",
        says=(
            "What the model's own matrix products take of a device"
            + (
                f", over {peak}: the dotted line, at 1. The axis is logarithmic."
                if known
                else "; its peak is not known."
            )
        ),
        log_y=known,
        from_zero=not known,
    )


def _projection(report: Report, group: Group) -> Chart:
    rows: list[Row] = []
    off = []
    for curve in group.curves:
        if model := _modelled(report, group, curve):
            label = group.label(curve)
            rows += [*_of_curve(curve, label, lambda p: p.images_per_second), *model]
            errors = _projection_of(report, curve).errors
            off += [f"{errors[n]:+.0%} ({label} on {n})" for n in sorted(errors)[-1:]]
    return _chart(
        *(group, "projection", "Projection, a model", rows),
        section=FURTHER,
        y_label="images/s",
        says=(
            "Points are measured; what is dashed is a model of computation and "
            "exchange alone, and so an upper bound. On the most devices measured it is "
            f"off by {in_words(off) or '–'}."
        ),
        log_y=True,
    )


def _modelled(
    report: Report, group: Group, curve: Curve, most: float = math.inf
) -> list[Row]:
    """A curve's projection to so many devices at most."""
    label, framework = f"{group.label(curve)}, model", curve.setting.framework
    return [
        Row(label, framework, MODEL, p.devices, p.images_per_second)
        for p in _projection_of(report, curve).points
        if p.devices <= most
    ]


def _projection_of(report: Report, curve: Curve) -> Projection:
    (projection,) = (p for p in report.projections if p.curve is curve)
    return projection


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
            size = point.cell.world_size
            yield _row(label, curve.setting.framework, size, estimate)


def _row(
    series: str, framework: str, x: float, estimate: Estimate, panel: str = ""
) -> Row:
    y, low, high = estimate.value, estimate.low, estimate.high
    return Row(series, framework, MEASURED, x, y, low, high, panel)


def _distribution(
    name: str, cell: Cell, times: Sequence[float], emphasis: float = 1.0
) -> Iterator[Row]:
    """Each time, and the share of times that are no longer."""
    for number, time in enumerate(sorted(times), start=1):
        framework, share = cell.setting.framework, number / len(times)
        yield Row(name, framework, MEASURED, time, share, emphasis=emphasis)
