"""Seconds of training until a test accuracy was reached, by world size.

The time is that of the timed windows, warm-up included, up to the evaluation that first
reached the target: compilation, start-up and the evaluations themselves are left out.
It is known no finer than evaluations are apart; of a run that was evaluated only at its
end it would be the time of the whole training, and so there is none.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from report.cells import Cell
from report.intervals import Estimate, median_estimate


@dataclass(frozen=True)
class Evaluated:
    """A run's test accuracies.

    Args:
      seconds: trained before each evaluation.
      accuracies: fractions, one for each.
      steps: optimizer steps before each.
    """

    seconds: tuple[float, ...]
    accuracies: tuple[float, ...]
    steps: tuple[int, ...] = ()

    @property
    def apart(self) -> int:
        """Most steps between two evaluations, or before the first.

        >>> Evaluated((1.0, 2.0, 2.2), (0.8, 0.9, 0.9), (22, 44, 50)).apart
        22
        """
        return max((b - a for a, b in pairwise((0, *self.steps))), default=0)

    def seconds_to(self, target: float) -> float | None:
        """Until an accuracy of `target` or more; None if it was never reached.

        >>> Evaluated((1.0, 2.0), (0.8, 0.9)).seconds_to(0.85)
        2.0
        """
        pairs = zip(self.seconds, self.accuracies, strict=True)
        return next((s for s, accuracy in pairs if accuracy >= target), None)


def common_target(evaluated: Iterable[Evaluated]) -> float | None:
    """The highest whole per cent that every run reached; None without accuracies.

    >>> common_target([Evaluated((1.0,), (0.973,)), Evaluated((1.0,), (0.989,))])
    0.97
    """
    best = [max(run.accuracies, default=math.nan) for run in evaluated]
    if not best or any(map(math.isnan, best)):
        return None
    return math.floor(100 * min(best)) / 100


@dataclass(frozen=True)
class TimeTo:
    """A cell's time to a target, or why there is none.

    Args:
      seconds: of its repeats, None where any of them never reached it.
      device_hours: that took, over all devices.
      steps_apart: between two evaluations, at most: the time is known no finer.
    """

    cell: Cell
    target: float
    seconds: Estimate | None
    device_hours: float | None
    steps_apart: int
    reason: str = ""


def time_to(cell: Cell, evaluated: Sequence[Evaluated], target: float) -> TimeTo:
    """The median over a cell's repeats, all of which must have reached the target.

    Over seeds where there are several, each by the median of its runs. The runs that
    did reach it are not averaged alone: those would be the lucky ones.

    Args:
      evaluated: of each of the cell's runs, in their order.
    """
    apart = max((run.apart for run in evaluated), default=0)
    times = [run.seconds_to(target) for run in evaluated]
    reached = [seconds for seconds in times if seconds is not None and seconds > 0]
    reason = ""
    if any(len(run.seconds) == 1 for run in evaluated):
        reason = "evaluated only at its end"
    elif len(reached) < len(times):
        reason = f"{len(reached)} of {len(times)} runs reached {target:g}"
    if reason:
        return TimeTo(cell, target, None, None, apart, reason)
    seeds: dict[int, list[float]] = defaultdict(list)
    for run, taken in zip(cell.runs, reached, strict=True):
        seeds[run.seed].append(taken)
    if len(seeds) > 1:
        reached = [float(np.median(taken)) for taken in seeds.values()]
    seconds = median_estimate(reached)
    hours = seconds.value * cell.world_size / 3600
    return TimeTo(cell, target, seconds, hours, apart, seconds.reason)
