"""Findings -> charts, each of one group of curves or of one parity check."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from report.analysis.checks import MISSING, LossCurve
from report.analysis.findings import Report
from report.analysis.groups import Group, file_name, program
from report.analysis.intervals import Estimate
from report.analysis.scaling import WEAK, Curve, Point
from report.page import bandwidth
from report.page.chart import Chart, Row, distribution, row_of
from report.page.sentences import format_list, group_target

MOST_RANKS = 3  # of a curve: more lines hide each other
PEAK = "the device's peak"
WINDOWS = {"y_label": "fraction of windows no slower", "form": "distribution"}
NEAR = 10  # a bound that many times above the points would press them together


def charts(report: Report) -> list[Chart]:
    """Every figure of a report, in the page's order; the tables have all groups."""
    of_groups = (
        replace(make(report, group), section=section)
        for section, makers in MAKERS.items()
        for make in makers
        for group in report.drawn
    )
    found = *_losses(report), *bandwidth.charts(report), *of_groups
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
    if chart.form == "points" and any(any(chart.cut(row)) for row in chart.rows):
        edge = "A triangle at the edge: the interval goes on beyond the figure."
        return replace(chart, caption=f"{chart.caption} {edge}")
    return chart


def _losses(report: Report) -> Iterator[Chart]:
    """What each parity check compared, one curve over the other; else each group's."""
    for check in report.checks:
        of = f"{check.precision} {check.parallel} {check.recipe.workload[:6]}"
        yield _loss_chart(
            f"losses-{file_name(of)}",
            f"{check.experiment} in {check.precision}: {check.verdict}",
            "Training loss of every run that the check compared, ×2 on two devices. "
            "The curves lie on each other where all train the same thing.",
            check.curves,
        )
    for group in () if report.checks else report.drawn:
        yield _loss_chart(
            f"losses-{group.name}",
            f"{group.title}: {MISSING}",
            "Training loss of the first repeat of each. No parity check is among the "
            "folders, so nothing says whether these are the same training.",
            report.losses[group.title],
        )


def _loss_chart(
    name: str, title: str, caption: str, curves: Sequence[LossCurve]
) -> Chart:
    rows = []
    # PyTorch's first, wide, so that what lies on it can be seen to do so.
    for curve in sorted(curves, key=lambda c: (c.framework != "torch", c.label)):
        if curve.reason:
            caption += f" {curve.label} is not drawn: {curve.reason}."
        rows += [
            Row(curve.label, curve.framework, "measured", step, loss)
            for step, loss in enumerate(curve.losses, start=1)
        ]
    labels = {"x_label": "optimizer step", "y_label": "training loss"}
    look = {"section": "parity", "form": "lines", "from_zero": True}
    return Chart(
        name=name, title=title, caption=caption, rows=tuple(rows), **labels, **look
    )


def _throughput(report: Report, group: Group) -> Chart:
    rows = list(_of_points(group, lambda p: p.images_per_second))
    peak = _peak_rate(report, group)
    times = peak / max(row.y / row.x for row in rows) if peak else None
    sizes = sorted({row.x for row in rows})
    bounds, model, beyond = ["what as many single devices would do"], "", ""
    for curve in group.curves:
        if curve.base is None:
            continue
        first, last = curve.points[0], curve.points[-1].cell.world_size
        rate = first.images_per_second.value / first.cell.world_size
        name, framework = f"{group.label(curve)}, ideal", curve.setting.framework
        rows += [
            Row(name, framework, "bound", size, rate * size)
            for size in (first.cell.world_size, last)
        ]
        if modelled := _modelled(report, group, curve, last):
            rows += modelled
            model = " Dashed, a model: what the interconnect allows of that."
    if peak and times and times < NEAR:
        bounds.append("and what the peak of each allows")
        rows += [Row(PEAK, "", "bound", size, peak * size) for size in sizes]
    elif times:
        beyond = f" The devices' peak is {times:,.0f} times as high, and not drawn."
    return _chart(
        group,
        "throughput",
        "Throughput",
        rows,
        y_label="images/s",
        caption=f"Higher is faster. Dotted: {', '.join(bounds)}.{model}{beyond}",
        log_y=True,
    )


def _peak_rate(report: Report, group: Group) -> float | None:
    """Images/s of one device at its peak; None where that is not known."""
    point = group.curves[0].points[0]
    use = report.utilisation(point)
    if use is None or use.fraction is None:
        return None
    return point.images_per_second.value / point.cell.world_size / use.fraction.value


def _ratio(report: Report, group: Group) -> Chart:
    found = report.comparisons_in(group)
    rows = [
        row_of(
            f"JAX over {program(c.under.setting)}", "", c.cell.world_size, c.estimate
        )
        for c in found
    ]
    levels = {c.difference.level for c in found if c.difference}
    return _chart(
        group,
        "ratio",
        "JAX over PyTorch",
        sorted(rows, key=lambda row: (row.series, row.x)),
        y_label="ratio of images/s",
        caption="Above 1 JAX is faster, below 1 PyTorch. An interval that holds 1 "
        "shows no difference. The axis is logarithmic: twice as fast and half as fast "
        f"lie as far from 1. Intervals are of {' and '.join(sorted(levels))}, for "
        "95 % of all comparisons together.",
        log_y=True,
        one=1.0,
    )


def _accuracy(report: Report, group: Group) -> Chart:
    times = report.times[group.title]
    apart = sorted({time.steps_apart for time in times.values()})
    every = " to ".join(f"{steps:,}" for steps in dict.fromkeys(apart[:1] + apart[-1:]))
    return _chart(
        group,
        "time-to-accuracy",
        f"Time to test accuracy{group_target(report, group)}",
        _of_points(group, lambda p: p.cell in times and times[p.cell].seconds or None),
        y_label="seconds of training",
        caption="Lower is faster. Compilation, start-up and evaluation are excluded. "
        f"Evaluated every {every} steps: the time is known no finer.",
        from_zero=True,
    )


def _efficiency(report: Report, group: Group) -> Chart:
    return _chart(
        group,
        "efficiency",
        "Efficiency",
        _of_points(group, lambda p: p.efficiency),
        y_label="speed-up over devices",
        caption="1 is ideal: twice the devices, twice the images per second.",
        from_zero=True,
        one=1.0,
    )


def _breakdown(report: Report, group: Group) -> Chart:
    """Nothing where no ablation was measured: a bar would be of one part."""
    return _chart(
        group,
        "step-parts",
        "Where the time of a step goes",
        (
            row_of(part, of.cell.setting.framework, of.cell.world_size, share, label)
            for label, of in report.breakdowns_of(group)
            for part, share in of.fractions.items()
        ),
        y_label="fraction of a step",
        caption="Each bar is a step on so many devices. Hatched is what was measured "
        "separately; filled is computation, and whatever was not. The vertical line is "
        "the interval of where the filled part ends.",
        form="bars",
    )


def _serial_fraction(report: Report, group: Group) -> Chart:
    weak = group.curves[0].regime == WEAK
    return _chart(
        group,
        "serial-fraction",
        f"Serial fraction ({'Gustafson' if weak else 'Karp–Flatt'})",
        _of_points(group, lambda p: p.serial_fraction),
        y_label=f"serial fraction {'s(p)' if weak else 'e(p)'}",
        caption="Flat: a part of each step does not scale. Rising: an overhead grows "
        "with the devices. 0 is ideal, below it is faster than ideal.",
        one=0.0,
    )


def _step_times(report: Report, group: Group) -> Chart:
    """Of the fewest devices and of the most; a line for each size would hide both."""
    rows: list[Row] = []
    for curve in group.curves:
        ends = (*curve.points[:1], *curve.points[1:][-1:])
        for point, emphasis in zip(ends, (0.4, 1.0), strict=False):
            cell, framework = point.cell, curve.setting.framework
            rates = np.concatenate([run.windows for run in cell.runs])
            times = (1000 * cell.global_batch_size / rates).tolist()
            name = f"{group.label(curve)} ×{cell.world_size}"
            rows += distribution(name, framework, times, emphasis)
    return _chart(
        group,
        "step-time",
        "Step time",
        rows,
        x_label="ms per step, mean of a timed window on its slowest rank",
        caption="Steep: every step takes as long. A long tail to the right: some wait, "
        "for the machine or for each other.",
        **WINDOWS,
    )


def _rank_times(report: Report, group: Group) -> Chart:
    """Of the most devices: the slowest rank, the quickest, and one between them."""
    rows: list[Row] = []
    alone = True
    for curve in group.curves:
        found = report.ranks.get(curve.points[-1].cell)
        if found is None:
            continue
        alone = alone and found.alone
        times = found.times
        if len(times) > MOST_RANKS:
            times = (times[0], times[len(times) // 2], times[-1])
        for number, time in enumerate(times):
            name = f"{group.label(curve)}, rank {time.rank}"
            framework, emphasis = curve.setting.framework, 0.4 if number else 1.0
            rows += distribution(name, framework, time.milliseconds, emphasis)
    return _chart(
        group,
        "rank-time",
        "Each rank's step",
        rows,
        x_label="ms per step, mean of a timed window on one rank",
        caption="Without the exchange, so that no rank waits for another: the one "
        "furthest to the right is the one that the others wait for."
        if alone
        else "Of whole steps, in which ranks wait for each other: whoever is slow, "
        "they lie close together. Runs without the exchange would tell them apart.",
        **WINDOWS,
    )


def _utilisation(report: Report, group: Group) -> Chart:
    used = {point: report.utilisation(point) for _, point in group.points}
    known = all(use is not None and use.fraction is not None for use in used.values())
    peak = "; its peak is not known."
    if known:
        given = report.options.peak_flops
        of = "the peak that was given" if given else "its data sheet's"
        peak = f", over {of}: the dotted line, at 1. The axis is logarithmic."

    def figure(point: Point) -> Estimate | None:
        use = used[point]
        return None if use is None else use.fraction if known else use.flops

    rows = list(_of_points(group, figure))
    if known:
        ends = min(row.x for row in rows), max(row.x for row in rows)
        rows += [Row(PEAK, "", "bound", x, 1.0) for x in ends]
    return _chart(
        group,
        "utilisation",
        "MFU" if known else "FLOP/s of a device",
        rows,
        y_label="fraction of the device's peak" if known else "FLOP/s per device",
        caption=f"What the model's own matrix products take of a device{peak}",
        log_y=known,
        from_zero=not known,
    )


def _projection(report: Report, group: Group) -> Chart:
    rows: list[Row] = []
    off = []
    for curve in group.curves:
        if model := _modelled(report, group, curve):
            label = group.label(curve)
            rows += [*_of_points(group, lambda p: p.images_per_second, [curve]), *model]
            errors = report.projection_of(curve).errors
            off += [f"{errors[n]:+.0%} ({label} on {n})" for n in sorted(errors)[-1:]]
    return _chart(
        group,
        "projection",
        "Projection, a model",
        rows,
        y_label="images/s",
        caption="Points are measured; what is dashed is a model of computation and "
        "exchange alone, and so an upper bound. On the most devices measured it is off "
        f"by {format_list(off) or '–'}.",
        log_y=True,
    )


def _modelled(
    report: Report, group: Group, curve: Curve, most: float = math.inf
) -> list[Row]:
    """A curve's projection to so many devices at most."""
    label, framework = f"{group.label(curve)}, model", curve.setting.framework
    return [
        Row(label, framework, "model", p.devices, p.images_per_second)
        for p in report.projection_of(curve).points
        if p.devices <= most
    ]


MAKERS: dict[str, tuple[Callable[[Report, Group], Chart], ...]] = {
    "fast": (_throughput, _ratio, _accuracy),
    "scales": (_efficiency,),
    "holds-back": (_breakdown, _serial_fraction)
    + (_step_times, _rank_times, _utilisation),
    "further": (_projection,),
}


def _of_points(
    group: Group,
    figure: Callable[[Point], Estimate | None],
    curves: Iterable[Curve] = (),
) -> Iterator[Row]:
    """A figure of every point, of some of the group's curves or of all."""
    for curve in curves or group.curves:
        for point in curve.points:
            if (estimate := figure(point)) is not None:
                at = curve.setting.framework, point.cell.world_size
                yield row_of(group.label(curve), *at, estimate)
