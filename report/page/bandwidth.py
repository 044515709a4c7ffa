"""The section on links of several bandwidths: sentences, tables and figures."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from recipe.links import UNLIMITED
from report.analysis.bandwidth import (
    DEVICES,
    DP,
    LATENCY,
    LinkedPoint,
    Panel,
    modelled_rate,
)
from report.analysis.findings import Report
from report.analysis.groups import framework_name
from report.analysis.intervals import Estimate
from report.page.blocks import NONE, Block, Entry, Heading, Text, entry, items, table
from report.page.chart import Chart, Row
from report.page.sentences import devices, format_list, format_reasons

SECTION = "bandwidth"
TITLE = "What does a slow link cost?"
MODEL = (
    "A step takes its computation, and an all-reduce of all parameters over the link "
    "for every H steps, by a ring or a tree, whichever is faster; nothing hides behind "
    "computation. The computation is that of the fastest step in the panel, the link "
    "that of a plain TCP transfer before each run: every other point is held out."
)
MODELLED = 25  # points of a dashed line


def _name(panel: Panel) -> str:
    where = f"{framework_name(panel.setting.framework)} on {devices(panel.world_size)}"
    return f"{panel.setting.experiment}, {where}"


def _link(point: LinkedPoint) -> str:
    return UNLIMITED if point.asked is None else f"{point.asked:,} Mbit/s"


def sentences(report: Report) -> Iterator[str]:
    """What stands at the top of the page."""
    for panel in report.panels:
        yield from gains(panel)


def gains(panel: Panel) -> Iterator[str]:
    """Where data parallelism stalls, and what local steps save over each link."""
    if panel.half_mbit is not None:
        yield (
            f"{_name(panel)}: dp has half of the images/s of computation alone at "
            f"about {_rough(panel.half_mbit)} Mbit/s"
        )
    dp = {point.asked: point for point in panel.of(DP)}
    limited = sorted({p.asked for p in panel.points if p.asked is not None})
    for asked in limited:
        base = dp.get(asked)
        others = [p for p in panel.points if p.asked == asked and p.strategy != DP]
        if base is None or not others:
            continue
        rate = base.images_per_second.value
        times = [
            f"{p.images_per_second.value / rate:.1f} ({p.strategy})" for p in others
        ]
        yield (
            f"{_name(panel)}, {asked:,} Mbit/s: {rate:,.0f} images/s under dp, times "
            f"{format_list(times)}"
        )


def _rough(mbit: float) -> str:
    """To two digits: it is interpolated between two links that were measured."""
    return f"{float(f'{mbit:.2g}'):,.0f}"


def _crossings(panel: Panel) -> Iterator[str]:
    if panel.target is None:
        return
    for strategy, mbit in panel.crossings.items():
        slowest = [points[0].seconds_to for points in map(panel.of, (DP, strategy))]
        if slowest[0] is None or slowest[1] is None:
            yield f"{strategy}: it or dp has no time to an accuracy of {panel.target:g}"
        elif mbit is None:
            first = strategy if slowest[1].value < slowest[0].value else DP
            yield f"{strategy}: over every link {first} reaches {panel.target:g} sooner"
        else:
            yield (
                f"{strategy}: reaches {panel.target:g} as soon as dp at about "
                f"{_rough(mbit)} Mbit/s, and sooner over a slower link"
            )


def _error(panel: Panel) -> Iterator[str]:
    """How far the model is off where it was not fitted: over the slowest link."""
    slowest = min(panel.points, key=lambda p: p.mbit).asked
    errors = [
        f"{p.error:+.1%} ({p.strategy})" for p in panel.points if p.asked == slowest
    ]
    where = UNLIMITED if slowest is None else f"{slowest:,} Mbit/s"
    on = devices(panel.world_size)
    yield f"On {on} over {where} the model is off by {format_list(errors)}"


def short(report: Report) -> list[Block]:
    return items(sentences(report))


def section(report: Report, figures: Iterable[Block]) -> Iterator[Block]:
    """Everything on the runs over links."""
    yield Text(
        "Each process was a host of its own on one machine, joined to a switch by a "
        "link whose both ends were limited. Latency is that of the machine, some "
        "hundredths of a millisecond: these are bandwidths, and not distances."
    )
    if any(panel.withheld for panel in report.panels):
        yield Text(
            "",
            "Rates of the two frameworks stand side by side here without proof that "
            "both trained the same thing: do not compare them.",
        )
    yield from figures
    for panel in report.panels:
        yield Heading(_name(panel))
        yield from items(f"{name}: {why}" for name, why in panel.withheld.items())
        yield from _points_table(panel)
        yield from items([*gains(panel), *_crossings(panel)])
        yield from _scores_table(panel)
        yield from _far_table(panel)
        yield from items(_error(panel))
    yield Text(MODEL, "The dashed lines and the last table are a model.")


def _points_table(panel: Panel) -> list[Block]:
    head = "strategy", "link", "measured, Mbit/s", "runs", "images/s"
    head += (
        "sent, MB/exchange",
        "expected",
        "of expected",
        f"s to {panel.target or 0:g}",
    )
    rows = [
        [
            *(point.strategy, _link(point)),
            entry(point.mbit, ",.1f"),
            entry(float(len(point.cell.runs)), ".0f"),
            entry(point.images_per_second, ",.0f"),
            entry(_mega(point.exchange_bytes), ".3f"),
            entry(point.expected_bytes / 1e6, ".3f"),
            entry(_fraction(point), ".2%"),
            entry(point.seconds_to, ",.3g"),
        ]
        for point in panel.points
    ]
    caption = (
        "Sent by rank 0 for each exchange, by its interface's counters without "
        "headers, where the run was not evaluated between; expected of a ring. Seconds "
        "are of as many steps as over the unlimited link"
    )
    return table(head, rows, caption)


def _mega(nbytes: Estimate | None) -> float | None:
    return None if nbytes is None else nbytes.value / 1e6


def _fraction(point: LinkedPoint) -> float | None:
    sent = point.exchange_bytes
    return None if sent is None else sent.value / point.expected_bytes


def _scores_table(panel: Panel) -> list[Block]:
    rows = [
        [
            name,
            entry(float(score.seeds), ".0f"),
            entry(score.mean, ".4f"),
            Entry(format_reasons(score.mean.reason).strip() or NONE),
        ]
        for name, score in panel.accuracies.items()
    ]
    head = "strategy", "seeds", "test accuracy", "without an interval"
    caption = "Accuracy after as many steps, over the unlimited link"
    return table(head, rows, caption)


def _far_table(panel: Panel) -> list[Block]:
    sizes = sorted({point.mbit for point in panel.far})
    rows = []
    for strategy in panel.strategies:
        of = {p.mbit: p for p in panel.far if p.strategy == strategy}
        rates = [entry(of[mbit].images_per_second, ",.0f") for mbit in sizes]
        parts = [entry(of[mbit].efficiency, ".3f") for mbit in sizes]
        pairs = zip(rates, parts, strict=True)
        rows.append([strategy, *(figure for pair in pairs for figure in pair)])
    head = [
        title
        for mbit in sizes
        for title in (f"images/s at {mbit:,} Mbit/s", f"efficiency at {mbit:,}")
    ]
    caption = (
        f"A model: {DEVICES:,} devices, each at a site of its own, {LATENCY * 1e3:.0f} "
        "ms from any other, with the same batch each"
    )
    return table(("strategy", *head), rows, caption)


def charts(report: Report) -> Iterator[Chart]:
    """Images/s and time to accuracy over bandwidth, a panel for each framework."""
    sizes = sorted({panel.world_size for panel in report.panels})
    for size in sizes:
        panels = [panel for panel in report.panels if panel.world_size == size]
        beside = f"-{size}" if len(sizes) > 1 else ""
        look = {"section": SECTION, "form": "links", "log_y": True}
        look["x_label"] = "Mbit/s of each link, measured"
        yield Chart(
            name=f"bandwidth{beside}",
            title=f"Images/s over bandwidth, {devices(size)}",
            y_label="images/s",
            caption="Points are measured, with 95 % intervals; dashed is the model. "
            "Furthest to the right: a link without a limit.",
            rows=tuple(_rate_rows(panels)),
            **look,
        )
        target = " and ".join(sorted({f"{p.target:g}" for p in panels if p.target}))
        yield Chart(
            name=f"bandwidth-time{beside}",
            title=f"Time to test accuracy {target} over bandwidth, {devices(size)}",
            y_label="seconds of training",
            caption="Lower is faster: steps to the accuracy over the unlimited link, "
            "times the measured duration of a step over each.",
            rows=tuple(_time_rows(panels)),
            **look,
        )


def _rate_rows(panels: Sequence[Panel]) -> Iterator[Row]:
    for panel in panels:
        at = framework_name(panel.setting.framework)
        for point in panel.points:
            yield _row(point, at, point.images_per_second)
        ends = [point.mbit for point in panel.points]
        for strategy in panel.strategies:
            point = panel.of(strategy)[0]
            name, framework = f"{strategy}, model", panel.setting.framework
            for mbit in np.geomspace(min(ends), max(ends), MODELLED).tolist():
                rate = modelled_rate(point, panel.compute_seconds, mbit)
                yield Row(name, framework, "model", mbit, rate, panel=at)


def _time_rows(panels: Sequence[Panel]) -> Iterator[Row]:
    for panel in panels:
        at = framework_name(panel.setting.framework)
        for point in panel.points:
            if point.seconds_to is not None:
                yield _row(point, at, point.seconds_to)


def _row(point: LinkedPoint, at: str, of: Estimate) -> Row:
    framework = point.cell.setting.framework
    return Row(
        *(point.strategy, framework, "measured", point.mbit),
        *(of.value, of.low, of.high),
        panel=at,
    )
