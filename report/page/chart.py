"""A figure before it is drawn: rows of numbers, which are written as CSV as well.

A figure shows its chart's rows and nothing else, so the CSV behind it is what it shows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from report.analysis.intervals import Estimate
from report.page import escape

# What is drawn how: dashed is a model and nothing else, dotted is a bound.
Kind = Literal["measured", "model", "bound"]
# How a figure shows its rows: medians over devices with their intervals; how steps are
# distributed; a line over steps; parts of a whole, stacked; one fraction over another;
# strategies over bandwidths, a panel for each framework.
Form = Literal["points", "distribution", "lines", "bars", "fractions", "links"]
# How far beyond the points an interval is drawn, in what lies between the points.
BEYOND = 1.5


@dataclass(frozen=True)
class Row:
    """One mark of a figure.

    Args:
      series: as the legend has it.
      framework: "torch", "jax", or "" for what is neither's.
      x, y: in the chart's units; low and high the ends of y's interval.
      panel: which it is in, where a figure has several.
      emphasis: 1, or less for a series that stands behind another.
    """

    series: str
    framework: str
    kind: Kind
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    panel: str = ""
    emphasis: float = 1.0


def row_of(
    series: str, framework: str, x: float, estimate: Estimate, panel: str = ""
) -> Row:
    """What was measured, with its interval."""
    y, low, high = estimate.value, estimate.low, estimate.high
    return Row(series, framework, "measured", x, y, low, high, panel)


def distribution(
    series: str, framework: str, times: Sequence[float], emphasis: float = 1.0
) -> Iterator[Row]:
    """Each time, and the fraction of times that are no longer."""
    for number, time in enumerate(sorted(times), start=1):
        share = number / len(times)
        yield Row(series, framework, "measured", time, share, emphasis=emphasis)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure before it is drawn.

    Args:
      name: of its files, without suffix.
      section: link of the page's section that it belongs to.
      title: what it shows, and of what.
      caption: what a reader should look for.
      one: a horizontal line that stands for "no difference", where there is one.
      from_zero: whether y's axis begins at 0, so that heights can be compared.
    """

    name: str
    section: str = ""
    title: str
    y_label: str
    caption: str
    rows: tuple[Row, ...]
    x_label: str = "devices"
    form: Form = "points"
    log_y: bool = False
    one: float | None = None
    from_zero: bool = False

    @property
    def view(self) -> tuple[float, float]:
        """Where y's axis begins and ends.

        All points are inside, and as much of their intervals as leaves the points
        apart; one that is wider says that it is not sure, whatever its end.
        """
        if self.form == "fractions":
            return 0.0, 1.02
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
