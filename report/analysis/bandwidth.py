"""Strategies over links of several bandwidths: speed, bytes, time to accuracy, a model.

    c   seconds of a step's computation: of the fastest step that was measured
    x   seconds of an all-reduce of all parameters, around a ring or up and down a tree
    H   steps between two of them; 1 under dp

A step takes c + x / H: nothing hides behind computation, and no link is shared. c is of
one point, and the bandwidth of a link that of a plain TCP transfer before the run, so
that every other point is held out.

What a run computes does not depend on its link, so the steps to an accuracy are those
of the runs over an unlimited link, and the time is that many steps over each link.

A run's images/s are those of all its windows together, as a median would take windows
without an exchange for all of them. Over a limited link each has to be of whole rounds.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from recipe.links import exchanged_bytes
from report.analysis.cells import Cell, Setting, cells_of
from report.analysis.checks import Check
from report.analysis.comparisons import proven
from report.analysis.interconnects import Interconnect, Link
from report.analysis.intervals import Estimate, median_estimate, through
from report.analysis.links import RunLink
from report.analysis.projection import gradient_bytes, ring_seconds, tree_seconds
from report.analysis.recipes import Recipe
from report.analysis.runs import Skipped, TimedRun
from report.analysis.timings import (
    NOTHING,
    Accuracy,
    Evaluated,
    Rows,
    accuracy,
    common_target,
)

DP = "dp"
DEVICES = 1024  # of the projection
WIDE_AREA = (100, 1_000, 10_000)  # Mbit/s of the projection
CUT = "its windows are not of whole rounds, so images/s would count too few or too many"
LATENCY = 0.025  # seconds of a message between two of its sites: a labelled assumption


@dataclass(frozen=True)
class LinkedPoint:
    """A strategy over one link.

    Args:
      every: steps between two exchanges.
      asked: Mbit/s, None without a limit.
      mbit: measured, the median over runs and hosts.
      exchange_bytes: that rank 0 sent for each exchange; None if it sent others.
      expected_bytes: of the same.
      modelled: images/s, by the model.
      seconds_to: the panel's accuracy; None where it is not known.
    """

    cell: Cell
    strategy: str
    every: int
    asked: int | None
    mbit: float
    images_per_second: Estimate
    exchange_bytes: Estimate | None
    expected_bytes: float
    modelled: float = math.nan
    seconds_to: Estimate | None = None

    @property
    def error(self) -> float:
        """Modelled over measured, minus 1."""
        return self.modelled / self.images_per_second.value - 1


@dataclass(frozen=True)
class FarPoint:
    """A strategy on `DEVICES` devices over a wide-area link, by the model."""

    strategy: str
    mbit: int
    images_per_second: float
    efficiency: float


@dataclass(frozen=True)
class Panel:
    """One framework's strategies on so many devices, over all links.

    Args:
      points: by strategy, then by bandwidth.
      compute_seconds: c.
      target: accuracy that times are to; None without any.
      accuracies: by strategy, over an unlimited link.
      half_mbit: where dp has half of the images/s that c allows; None beyond what was
        measured.
      crossings: strategy -> Mbit/s at which dp takes as long to the accuracy, None
        where it does over no link; empty without dp.
      withheld: strategy -> why nothing shows that both frameworks train the same.
    """

    setting: Setting
    world_size: int
    points: tuple[LinkedPoint, ...]
    compute_seconds: float
    target: float | None
    accuracies: Mapping[str, Accuracy]
    half_mbit: float | None
    crossings: Mapping[str, float | None]
    far: tuple[FarPoint, ...]
    withheld: Mapping[str, str] = field(default_factory=dict)

    @property
    def strategies(self) -> list[str]:
        return list(dict.fromkeys(point.strategy for point in self.points))

    def of(self, strategy: str) -> list[LinkedPoint]:
        return [point for point in self.points if point.strategy == strategy]


def named_strategy(parallel: str, recipe: Recipe | None) -> tuple[str, int]:
    """A strategy's name for people, and its steps between two exchanges."""
    keys = {} if recipe is None else recipe.keys
    every = keys.get("parallel.every")
    if every is None:
        return parallel, 1
    name = "DiLoCo" if keys.get("parallel.outer.momentum") else "local SGD"
    return f"{name}, H = {every}", int(every)


def bandwidth_panels(
    runs: Sequence[TimedRun],
    links: Mapping[Path, RunLink],
    recipes: Mapping[str, Recipe],
    rows: Mapping[Path, Rows],
    checks: Sequence[Check],
) -> tuple[list[Panel], list[Skipped]]:
    """What runs over links show, and the runs that were skipped.

    Args:
      runs: each with its link in `links`.
    """
    told = [
        _told_apart(run, links[run.path], recipes, rows.get(run.path, NOTHING))
        for run in runs
    ]
    cut = [run for run in told if _cuts_rounds(run, links, rows)]
    cells, skipped = cells_of(run for run in told if run not in cut)
    skipped += [Skipped(str(run.path), CUT) for run in cut]
    piles: dict[tuple[Setting, int, float], list[Cell]] = defaultdict(list)
    for cell in cells:
        alike = replace(cell.setting, varied=(), parallel="")
        piles[alike, cell.world_size, cell.device_batch].append(cell)
    panels = [
        _panel(setting, pile, links, recipes, rows, checks)
        for (setting, *_), pile in sorted(piles.items(), key=lambda pile: pile[0])
    ]
    panels.sort(key=lambda panel: panel.setting.framework != "torch")
    return panels, skipped


def _cuts_rounds(
    run: TimedRun, links: Mapping[Path, RunLink], rows: Mapping[Path, Rows]
) -> bool:
    """Whether a run over a limited link has windows that are not of whole rounds."""
    every = int(dict(run.varied)["every"])
    windows = rows.get(run.path, NOTHING).windows
    limited = links[run.path].asked is not None
    return limited and any(window.steps % every for window in windows)


def _told_apart(
    run: TimedRun, link: RunLink, recipes: Mapping[str, Recipe], rows: Rows
) -> TimedRun:
    """With its link and strategy in its setting, one rate, and pooled over seeds."""
    recipe = recipes.get(run.config_hash)
    name, every = named_strategy(run.parallel, recipe)
    mbit = math.inf if link.asked is None else link.asked
    varied = ("every", str(every)), ("link", f"{mbit:g}"), ("strategy", name)
    family = "" if recipe is None else recipe.family
    steps = sum(window.steps for window in rows.windows)
    seconds = sum(window.seconds for window in rows.windows)
    rates = (run.global_batch_size * steps / seconds,) if seconds else run.windows
    return replace(run, varied=varied, family=family, windows=rates)


def _panel(
    setting: Setting,
    cells: Sequence[Cell],
    links: Mapping[Path, RunLink],
    recipes: Mapping[str, Recipe],
    rows: Mapping[Path, Rows],
    checks: Sequence[Check],
) -> Panel:
    points = sorted(
        (_point(cell, links, rows) for cell in cells),
        key=lambda p: (
            (p.strategy != DP, p.strategy.partition(",")[0] == "DiLoCo")
            + (p.every, p.mbit)
        ),
    )
    batch, world_size = cells[0].global_batch_size, cells[0].world_size
    compute = min(batch / point.images_per_second.value for point in points)
    points = [replace(p, modelled=modelled_rate(p, compute, p.mbit)) for p in points]
    evaluated = {
        point.strategy: [rows.get(r.path, NOTHING).evaluated for r in point.cell.runs]
        for point in points
        if point.asked is None
    }
    target = common_target(run for of in evaluated.values() for run in of)
    points = [
        _timed_to(point, evaluated.get(point.strategy), target) for point in points
    ]
    unlimited = {p.strategy: p.cell for p in points if p.asked is None}
    scores = {name: accuracy(unlimited[name], of) for name, of in evaluated.items()}
    dp = [point for point in points if point.strategy == DP]
    names = dict.fromkeys(point.strategy for point in points)
    return Panel(
        setting=setting,
        world_size=world_size,
        points=tuple(points),
        compute_seconds=compute,
        target=target,
        accuracies={name: score for name, score in scores.items() if score},
        half_mbit=crossing(
            [p.mbit for p in dp],
            [p.images_per_second.value * compute / batch / 0.5 for p in dp],
        ),
        crossings={n: _crossing(dp, points, n) for n in names if dp and n != DP},
        far=tuple(_far(list(points), compute)),
        withheld={
            point.strategy: why
            for point in points
            if (why := proven([point.cell], recipes, checks)[1])
        },
    )


def _point(
    cell: Cell, links: Mapping[Path, RunLink], rows: Mapping[Path, Rows]
) -> LinkedPoint:
    varied, run = dict(cell.setting.varied), cell.runs[0]
    every = int(varied["every"])
    own = [links[run.path] for run in cell.runs]
    steps = [rows.get(run.path, NOTHING).evaluated.steps for run in cell.runs]
    counted = [
        link.bytes_per_exchange(every, at) for link, at in zip(own, steps, strict=True)
    ]
    sent = [nbytes for nbytes in counted if nbytes is not None]
    nbytes = gradient_bytes(run.parameters, cell.setting.precision)
    return LinkedPoint(
        cell=cell,
        strategy=varied["strategy"],
        every=every,
        asked=own[0].asked,
        mbit=float(np.median([speed for link in own for speed in link.measured])),
        images_per_second=median_estimate(cell.rates),
        exchange_bytes=median_estimate(sent) if sent else None,
        expected_bytes=exchanged_bytes(nbytes, cell.world_size),
    )


def exchange_seconds(
    nbytes: float, devices: int, mbit: float, latency: float = 0.0
) -> float:
    """x: an all-reduce between hosts of a device each, by the faster algorithm.

    >>> round(exchange_seconds(6.65e6, 2, 100), 3)
    0.532
    """
    link = Link(latency, mbit * 1e6 / 8)
    net = Interconnect("links", 1, link, link, "a study of links")
    return min(ring_seconds(nbytes, devices, net), tree_seconds(nbytes, devices, net))


def modelled_rate(point: LinkedPoint, compute: float, mbit: float) -> float:
    """Images/s of a strategy over another link, by the model."""
    cell = point.cell
    nbytes = gradient_bytes(cell.runs[0].parameters, cell.setting.precision)
    exchange = exchange_seconds(nbytes, cell.world_size, mbit)
    return cell.global_batch_size / (compute + exchange / point.every)


def _timed_to(
    point: LinkedPoint, evaluated: Sequence[Evaluated] | None, target: float | None
) -> LinkedPoint:
    """With the time to an accuracy: as many steps as without a limit, each as long."""
    steps = [None if target is None else steps_to(e, target) for e in evaluated or ()]
    reached = [count for count in steps if count is not None]
    if not reached or len(reached) < len(steps):
        return point
    images = float(np.median(reached)) * point.cell.global_batch_size
    seconds = through(point.images_per_second, lambda rate: images / rate)
    return replace(point, seconds_to=seconds)


def steps_to(evaluated: Evaluated, target: float) -> int | None:
    """Steps before the evaluation that first reached an accuracy; None if none did.

    >>> steps_to(Evaluated((1.0, 2.0), (0.8, 0.9), (100, 200)), 0.85)
    200
    """
    pairs = zip(evaluated.steps, evaluated.accuracies, strict=True)
    return next((steps for steps, found in pairs if found >= target), None)


def _crossing(
    dp: Sequence[LinkedPoint], points: Iterable[LinkedPoint], strategy: str
) -> float | None:
    """Mbit/s at which dp takes as long to the accuracy; None where it never does."""
    other = {p.asked: p.seconds_to for p in points if p.strategy == strategy}
    mbit, ratios = [], []
    for point in dp:
        seconds = other.get(point.asked)
        if point.seconds_to is not None and seconds is not None:
            mbit.append(point.mbit)
            ratios.append(point.seconds_to.value / seconds.value)
    return crossing(mbit, ratios)


def crossing(mbit: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Where a ratio passes 1, between the two points that it does so; None nowhere.

    On a straight line through both on logarithmic axes.

    Args:
      mbit: increasing.

    >>> crossing([10, 1000], [10.0, 0.1])
    100.0
    """
    pairs = zip(mbit, ratios, strict=True)
    for (x, a), (y, b) in pairwise(pairs):
        if (a - 1) * (b - 1) <= 0 and a != b:
            part = math.log(a) / (math.log(a) - math.log(b))
            return round(math.exp(math.log(x) + part * math.log(y / x)), 6)
    return None


def _far(points: Sequence[LinkedPoint], compute: float) -> Iterable[FarPoint]:
    """Every strategy on many devices over wide-area links, a device at each site."""
    for point in {p.strategy: p for p in points}.values():
        cell = point.cell
        nbytes = gradient_bytes(cell.runs[0].parameters, cell.setting.precision)
        examples = DEVICES * cell.global_batch_size / cell.world_size
        for mbit in WIDE_AREA:
            exchange = exchange_seconds(nbytes, DEVICES, mbit, LATENCY)
            step = compute + exchange / point.every
            yield FarPoint(point.strategy, mbit, examples / step, compute / step)
