"""Where the time of a step goes, as fractions of a step, as far as runs measured it.

A part is what the host timed in every window, or what a step takes longer than the same
step without that part, which a study's ablations are run for. The rest is computation,
and whatever no run told apart from it.

In a whole step ranks wait for each other in the exchange, so that their times are
nearly the same whoever is slow. Without the exchange each goes at its own pace: where
an ablation timed that, it is what is shown.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float

from report.analysis.cells import Cell, different_recipes
from report.analysis.intervals import (
    Estimate,
    half_width,
    locate,
    median_estimate,
    ratio_estimate,
    through,
    too_few,
)
from report.analysis.recipes import Recipe
from report.analysis.runs import ABLATIONS, Skipped, TimedRun
from report.analysis.timings import Rows

REST, DATA = "computation and the rest", "data"
Ablations = Mapping[str, Sequence[TimedRun]]  # key of a disabled part -> repeats
PARTS = (REST, *ABLATIONS.values(), DATA)  # as they are stacked

# What a run and its ablation share: all but what is disabled, the hash that shows it,
# and what either measured.
ALIKE = sorted(
    {field.name for field in fields(TimedRun)}
    - {"ablated", "config_hash", "path", "environment", "windows", "seed", "family"}
    - {"compile_seconds", "compile_cached", "startup_seconds", "peak_memory_bytes"}
)


@dataclass(frozen=True)
class Breakdown:
    """A cell's step in parts.

    Args:
      milliseconds: of a whole step.
      fractions: part -> its fraction of that, the rest among them; together they are 1.
    """

    cell: Cell
    milliseconds: Estimate
    fractions: Mapping[str, Estimate]


def ablations_of(
    runs: Iterable[TimedRun], cells: Iterable[Cell], recipes: Mapping[str, Recipe]
) -> tuple[dict[Cell, dict[str, tuple[TimedRun, ...]]], list[Skipped]]:
    """Ablations (runs without a part of the step), by the cell that each belongs to.

    Returns:
      These, and by name the runs that match no cell.
    """
    whole: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        whole[_alike(cell.runs[0], recipes)].append(cell)
    piles: dict[tuple[object, ...], list[TimedRun]] = defaultdict(list)
    for run in runs:
        piles[(*_alike(run, recipes), run.ablated)].append(run)
    ablations: dict[Cell, dict[str, tuple[TimedRun, ...]]] = defaultdict(dict)
    skipped = []
    for (*like, _), found in piles.items():
        of, ablated = whole.get(tuple(like), []), found[0].ablated
        reason = "" if of else "no run of the whole step matches it"
        if reason := reason or different_recipes(found):
            without = " and ".join(ablated)
            what = f"ran without {without}, to be compared with whole steps"
            skipped += [Skipped(str(run.path), f"{what}: {reason}") for run in found]
            continue
        for cell in of:
            ablations[cell][" ".join(ablated)] = tuple(found)
    return ablations, skipped


def _alike(run: TimedRun, recipes: Mapping[str, Recipe]) -> tuple[object, ...]:
    recipe = recipes.get(run.config_hash)
    workload = recipe.workload if recipe else run.config_hash
    return (*(getattr(run, name) for name in ALIKE), workload)


def breakdown(
    cell: Cell, rows: Sequence[Rows], ablations: Ablations
) -> Breakdown | None:
    """A cell's step in the parts that its runs and ablations measured; else None.

    Args:
      rows: of each of the cell's runs.
    """
    parts: dict[str, Estimate] = {}
    spread: list[tuple[float, Sequence[float]]] = []  # what the rest varies with
    for key, part in ABLATIONS.items():
        if key in ablations:
            rates = [run.images_per_second for run in ablations[key]]
            parts[part] = saved(cell.rates, rates)
            spread += [(1 - parts[part].value, rates)]
    if spread:
        spread += [(sum(slope for slope, _ in spread), cell.rates)]
    if shares := _data_shares(rows):
        parts[DATA] = median_estimate(shares)
        spread += [(parts[DATA].value, shares)]
    if not parts:
        return None
    parts[REST] = _rest(1 - sum(p.value for p in parts.values()), spread)
    whole = through(
        median_estimate(cell.rates), lambda rate: 1000 * cell.global_batch_size / rate
    )
    in_order = {part: parts[part] for part in PARTS if part in parts}
    return Breakdown(cell, whole, in_order)


def saved(whole: Sequence[float], without: Sequence[float]) -> Estimate:
    """The fraction of a step's time that is saved without one of its parts.

    Args:
      whole, without: images/s of repeats of either.
    """
    return through(ratio_estimate(whole, without), lambda ratio: 1 - ratio)


@dataclass(frozen=True)
class Ratio:
    """Images/s of a cell over those of another that differs from it in one setting."""

    cell: Cell
    under: Cell
    estimate: Estimate


def real_over_synthetic(cells: Iterable[Cell]) -> list[Ratio]:
    """Real data over synthetic images in cells of each: below 1, data costs time."""
    return _over(cells, data="synthetic")


def compiled_over_eager(cells: Iterable[Cell]) -> list[Ratio]:
    """PyTorch's compiled cells over eager ones of the same recipe.

    Above 1, compiling saves time. JAX has no eager ones.
    """
    return [
        found
        for found in _over(cells, compiled=False, cuda_graphs=False)
        if not different_recipes((found.cell.runs[0], found.under.runs[0]))
    ]


def _over(cells: Iterable[Cell], **other: object) -> list[Ratio]:
    """The ratio of each cell to the one that differs from it in this setting alone."""

    def point(cell: Cell) -> tuple[object, ...]:
        setting = replace(cell.setting, **other)
        return setting, cell.world_size, cell.global_batch_size, cell.grad_accum_steps

    cells = list(cells)
    others = {point(c): c for c in cells if c.setting == replace(c.setting, **other)}
    found = [(c, others[point(c)]) for c in cells if point(c) in others]
    return [
        Ratio(cell, under, ratio_estimate(cell.rates, under.rates))
        for cell, under in found
        if cell is not under
    ]


def _data_shares(rows: Sequence[Rows]) -> list[float]:
    """Data's fraction of each run's median window; empty if a run did not time it."""
    shares = []
    for run in rows:
        timed = [w.data_seconds / w.seconds for w in run.windows if w.data_seconds]
        if not timed or min(timed) <= 0 or len(timed) < len(run.windows):
            return []
        shares.append(float(np.median(timed)))
    return shares


def _rest(value: float, spread: Sequence[tuple[float, Sequence[float]]]) -> Estimate:
    """What remains of a step after the parts; it varies with each (delta method).

    Args:
      spread: by how much the rest changes with a relative change of something, and
        repeats of that.
    """
    repeats = [np.asarray(values, np.float64) for _, values in spread]
    if reason := next(filter(None, map(too_few, repeats)), ""):
        return Estimate(value, reason=reason)
    at = [locate(values) for values in repeats]
    variances = np.array(
        [slope**2 * a.variance for (slope, _), a in zip(spread, at, strict=True)]
    )
    half = float(half_width(variances, [a.freedom for a in at]))
    return Estimate(value, value - half, value + half)


@dataclass(frozen=True)
class RankTime:
    """One rank's steps.

    Args:
      milliseconds: of a step, the mean of each timed window, over all runs.
      median: of the runs' medians.
      over_mean: its median over the mean of all ranks in the same window.
      slowest: fraction of windows in which no rank was slower.
    """

    rank: int
    milliseconds: tuple[float, ...]
    median: Estimate
    over_mean: Estimate
    slowest: float


@dataclass(frozen=True)
class Ranks:
    """A cell's ranks, the slowest first.

    Args:
      alone: whether they are timed without the exchange.
    """

    cell: Cell
    alone: bool
    times: tuple[RankTime, ...]


def rank_times(cell: Cell, alone: bool, runs: Sequence[Rows]) -> Ranks | None:
    """A cell's ranks; None if there are no two, or others after a run was resumed.

    Args:
      alone: whether these runs are without the exchange.
      runs: the cell's, or those of its ablation.
    """
    ranks = cell.runs[0].processes
    windows = [window for run in runs for window in run.windows]
    if ranks < 2 or any(len(window.rank_seconds) != ranks for window in windows):
        return None
    times = [_times(run) for run in runs if run.windows]
    if not times:
        return None
    every = np.concatenate(times)
    slowest = every.argmax(axis=1)
    ratios = [each / each.mean(axis=1, keepdims=True) for each in times]
    found = [
        RankTime(
            rank,
            tuple(every[:, rank].tolist()),
            median_estimate([float(np.median(each[:, rank])) for each in times]),
            median_estimate([float(np.median(each[:, rank])) for each in ratios]),
            float((slowest == rank).mean()),
        )
        for rank in range(ranks)
    ]
    found.sort(key=lambda time: -time.over_mean.value)
    return Ranks(cell, alone, tuple(found))


def _times(run: Rows) -> Float[np.ndarray, "windows ranks"]:
    """Milliseconds of a step, the mean of each window."""
    seconds = np.array([window.rank_seconds for window in run.windows])
    steps = np.array([window.steps for window in run.windows])
    return 1000 * seconds / steps[:, None]
