"""Figures, drawn by matplotlib without a display; one look for both frameworks.

A framework has its colour and its marker in every figure. What is measured is a line,
what a model says is dashed, a bound is dotted.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from report.page.chart import Chart, Row
from report.page.escape import visible

# Okabe and Ito's palette: told apart by the colour-blind. In grey the two are near each
# other, so markers tell them apart as well: PyTorch's are filled, JAX's are hollow.
COLOURS = {"torch": "#D55E00", "jax": "#0072B2", "": "#222222"}
# Of strategies, where panels tell the frameworks apart; of the same palette.
STRATEGIES = ("#222222", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#0072B2")
MARKERS = {"torch": "oDv", "jax": "s^p", "": "DX"}
# Of the parts of a stack: the first is filled, and each of the others hatched.
HATCHES = ("", "////", "....", "xxxx", "----", "++++")

LOOK: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "legend.fontsize": "small",
    # A name is shown as it is; and the same numbers give the same file.
    "text.parse_math": False,
    "svg.hashsalt": "duet",
    "hatch.linewidth": 0.7,
}
WIDTH, HEIGHT = 5.2, 3.6  # inches: still read where it is shown 370 pixels wide


def draw(chart: Chart, folder: Path) -> tuple[Path, Path]:
    """Write a chart as PNG and SVG, named after it.

    Returns:
      Both paths, the PNG's first.
    """
    matplotlib.use("agg")
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        if chart.form == "bars":
            _draw_bars(figure, chart)
        elif chart.form == "links":
            _draw_links(figure, chart)
        else:
            axes = figure.subplots()
            _draw_series(axes, chart)
            _scale_axes(axes, chart)
            axes.set_xlabel(chart.x_label)
            axes.set_ylabel(chart.y_label)
        paths = folder / f"{chart.name}.png", folder / f"{chart.name}.svg"
        figure.savefig(paths[0], dpi=200)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _draw_series(axes: Axes, chart: Chart) -> None:
    if chart.one is not None:
        axes.axhline(chart.one, color="0.45", linewidth=1)
    seen: dict[str, int] = {}  # framework -> its measured series so far
    measured = {row.series for row in chart.rows if row.kind == "measured"}
    bounds: set[str] = set()
    for number, (series, group) in enumerate(
        itertools.groupby(chart.rows, lambda row: row.series)
    ):
        rows, name = list(group), visible(series)
        first = rows[0]
        colour = COLOURS.get(first.framework, COLOURS[""])
        x, y = [row.x for row in rows], [row.y for row in rows]
        if first.kind == "bound":
            _draw_bound(axes, x, y, name, bounds)
            continue
        if first.kind == "model":
            axes.plot(x, y, "--", color=colour, linewidth=1.4, label=name)
            continue
        nth = seen.setdefault(first.framework, 0)
        seen[first.framework] += 1
        if chart.form == "distribution":
            axes.ecdf(
                x,
                alpha=0.3 + 0.7 * first.emphasis,
                linewidth=1 + 1.6 * first.emphasis,
                markevery=max(len(x) // 6, 1),
                label=name,
                **_mark(first.framework, nth),
            )
            axes.set_ylim(0, 1.04)
        elif chart.form == "lines":
            # Each narrower than the one it lies on, so that all can be seen.
            width = max(5.0 - 1.3 * number, 0.8)
            axes.plot(x, y, color=colour, linewidth=width, label=name)
        else:
            # Side by side, since intervals at one number of devices hide each other.
            aside = 1.015 ** (2 * sum(seen.values()) - 1 - len(measured))
            aside = 1 if chart.form == "fractions" else aside
            _draw_points(axes, chart, rows, aside, nth, name)


def _draw_bound(
    axes: Axes, x: Sequence[float], y: Sequence[float], name: str, named: set[str]
) -> None:
    """A dotted line: each curve's ideal, thin, and what all share, thick.

    Args:
      named: what the legend has of bounds; all ideals are one.
    """
    ideal = name.endswith(", ideal")
    label = "ideal" if ideal else name
    look: dict[str, Any] = {"label": None if label in named else label, "zorder": 1}
    named.add(label)
    look |= {"color": "0.35" if ideal else "black", "linewidth": 1.2 if ideal else 2}
    look["linestyle"] = ":"
    if len(set(y)) == 1:
        axes.axhline(y[0], **look)  # seen over a single size, too
    else:
        axes.plot(x, y, **look)


def _draw_points(
    axes: Axes, chart: Chart, rows: Sequence[Row], aside: float, nth: int, name: str
) -> None:
    """Medians joined by a line, their intervals as bars, and a band between these.

    A triangle stands where an interval goes on beyond the figure.

    Args:
      aside: factor by which the series is moved along x.
    """
    look = _mark(rows[0].framework, nth)
    x, y = [row.x * aside for row in rows], [row.y for row in rows]
    axes.plot(x, y, linewidth=1.4, label=name, zorder=3, **look)
    sure = [row for row in rows if row.low is not None and row.high is not None]
    if not sure:
        return
    at, colour = np.array([row.x * aside for row in sure]), look["color"]
    ends = np.array([[row.low, row.high] for row in sure], np.float64).T
    axes.vlines(at, *ends, color=colour, linewidth=1.4, zorder=2)
    if len(sure) > 1:
        axes.fill_between(at, *ends, color=colour, alpha=0.15, linewidth=0, zorder=1)
    for x, row in zip(at, sure, strict=True):
        for edge, marker, cut in zip(chart.view, "v^", chart.cut(row), strict=True):
            if cut:
                axes.plot(x, edge, marker, color=colour, markersize=8, clip_on=False)


def _draw_bars(figure: Figure, chart: Chart) -> None:
    """A panel for each curve, in it a stack for each x; what is negative hangs below.

    The first part stands on the axis, and carries its interval.
    """
    panels = {row.panel: row.framework for row in chart.rows}
    parts = dict.fromkeys(row.series for row in chart.rows)
    hatches = dict(zip(parts, itertools.cycle(HATCHES), strict=False))
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel, framework) in zip(every, panels.items(), strict=True):
        rows = [row for row in chart.rows if row.panel == panel]
        sizes = sorted({row.x for row in rows})
        colour = COLOURS.get(framework, COLOURS[""])
        above, below = np.zeros(len(sizes)), np.zeros(len(sizes))
        for row in rows:
            at, hatch = sizes.index(row.x), hatches[row.series]
            ends = above if row.y > 0 else below
            face = "white" if hatch else colour
            look = {"facecolor": face, "edgecolor": colour, "hatch": hatch}
            axes.bar(at, row.y, bottom=ends[at], **look)
            ends[at] += row.y
            if not hatch and row.low is not None and row.high is not None:
                axes.vlines(at, row.low, row.high, color="black", linewidth=1.4)
        few = -(-len(sizes) // 7)
        axes.set_xticks(range(0, len(sizes), few), [plain(x) for x in sizes[::few]])
        axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(axis="x", visible=False)
        axes.set_axisbelow(True)
        axes.set_title(visible(panel), fontsize="medium")
    every[0].set_ylabel(chart.y_label)
    figure.supxlabel(chart.x_label, fontsize="medium")
    patches = [
        Patch(ec="0.3", fc="white" if hatch else "0.5", hatch=hatch, label=part)
        for part, hatch in hatches.items()
    ]
    figure.legend(handles=patches, loc="outside upper left", ncols=2)


def _draw_links(figure: Figure, chart: Chart) -> None:
    """A panel for each framework, in it a colour and a marker for each strategy."""
    panels = list(dict.fromkeys(row.panel for row in chart.rows))
    measured = dict.fromkeys(r.series for r in chart.rows if r.kind == "measured")
    names = {name: number for number, name in enumerate(measured)}
    (every,) = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, panel in zip(every, panels, strict=True):
        for name, number in names.items():
            look = {"color": STRATEGIES[number % len(STRATEGIES)], "linewidth": 1.3}
            mark = {"marker": "oDv^sXP"[number % 7], "markersize": 5, "label": name}
            own = [row for row in chart.rows if row.panel == panel]
            lines = {"-": (name, mark), "--": (f"{name}, model", {})}
            for style, (series, more) in lines.items():
                rows = [row for row in own if row.series == series]
                x, y = [row.x for row in rows], [row.y for row in rows]
                axes.plot(x, y, style, **look, **more)
                for row in rows:
                    if row.low is not None and row.high is not None:
                        axes.vlines(row.x, row.low, row.high, color=look["color"])
        axes.set(xscale="log", yscale="log")
        axes.set_title(visible(panel), fontsize="medium")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        for axis in axes.xaxis, axes.yaxis:
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    every[0].set_ylabel(chart.y_label)
    figure.supxlabel(chart.x_label, fontsize="medium")
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)


def _mark(framework: str, nth: int) -> dict[str, Any]:
    """The look of a framework's nth series."""
    colour = COLOURS.get(framework, COLOURS[""])
    markers = MARKERS.get(framework, MARKERS[""])
    return {
        "color": colour,
        "marker": markers[nth % len(markers)],
        "markersize": 6,
        "markerfacecolor": "white" if framework == "jax" else colour,
        "markeredgewidth": 1.6,
    }


def _scale_axes(axes: Axes, chart: Chart) -> None:
    if chart.log_y:
        axes.set_yscale("log")
    if chart.from_zero or chart.form in ("points", "fractions"):
        axes.set_ylim(*chart.view)
    if chart.log_y:
        low, high = axes.get_ylim()
        wide = high / low >= 10  # of 1, 2 and 5 a decade holds three at least
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0)) if wide else MaxNLocator(5)
        )
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    values = sorted({row.x for row in chart.rows})
    if chart.form == "distribution" and values[-1] > 5 * values[0]:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    if chart.form == "fractions":
        axes.set_xlim(0, 1)
    if chart.form == "points":
        axes.set_xscale("log", base=2)
        axes.set_xticks(values[:: -(-len(values) // 11)])
        axes.set_xlim(values[0] / 1.25, values[-1] * 1.25)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend()


def plain(value: float) -> str:
    """A number as people write it: 0.25, 16, 4,000, 2.6M.

    >>> [plain(x) for x in (0.25, 16.0, 4000.0, 2.6e6, 3e12)]
    ['0.25', '16', '4,000', '2.6M', '3T']
    """
    for least, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= least:
            return f"{value / least:.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
