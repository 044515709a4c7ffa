"""Seconds of training until a test accuracy was reached, by world size.

The time is that of the timed windows, warm-up included, up to the evaluation that first
reached the target: compilation, start-up and the evaluations themselves are left out.
It is known no finer than evaluations are apart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from report.cells import Cell
from report.intervals import Estimate, median_estimate


@dataclass(frozen=True)
class Evaluated:
    """A run's test accuracies.

    Args:
      seconds: trained before each evaluation.
      accuracies: fractions, one for each.
    """

    seconds: tuple[float, ...]
    accuracies: tuple[float, ...]

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
    """

    cell: Cell
    target: float
    seconds: Estimate | None
    device_hours: float | None
    reason: str = ""


def time_to(cell: Cell, evaluated: Sequence[Evaluated], target: float) -> TimeTo:
    """The median over a cell's repeats, all of which must have reached the target.

    The runs that did reach it are not averaged alone: those would be the lucky ones.
    """
    times = [run.seconds_to(target) for run in evaluated]
    reached = [seconds for seconds in times if seconds is not None and seconds > 0]
    if len(reached) < len(times):
        reason = f"{len(reached)} of {len(times)} runs reached {target:g}"
        return TimeTo(cell, target, None, None, reason)
    seconds = median_estimate(reached)
    return TimeTo(
        cell, target, seconds, seconds.value * cell.world_size / 3600, seconds.reason
    )
