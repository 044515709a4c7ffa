"""Who is waited for: the times of a step on each rank.

In a whole step ranks wait for each other in the exchange, so that their times are
nearly the same whoever is slow. Without the exchange each goes at its own pace: where
an arm of a study timed that, it is what is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from report.cells import Cell
from report.intervals import Estimate, median_estimate
from report.rows import Rows


@dataclass(frozen=True)
class RankTime:
    """One rank's steps.

    Args:
      milliseconds: of a step, the mean of each timed window, over all runs.
      median: of the runs' medians.
      over_mean: its median over the mean of all ranks in the same window.
      slowest: share of windows in which no rank was slower.
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
    """A cell's ranks; None where there are no two, or a run went on with other ranks.

    Args:
      alone: whether these runs left out the exchange.
      runs: the cell's, or those of its arm.
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
