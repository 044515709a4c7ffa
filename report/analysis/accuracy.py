"""Test accuracy over seeds, and the seconds of training until one was reached.

The time is that of the timed windows, warm-up included, up to the evaluation that first
reached the target: compilation, start-up and the evaluations themselves are left out.
It is known no finer than evaluations are apart; of a run that was evaluated only at its
end it would be the time of the whole training, and so there is none.

A seed is a repeat of a training, and speed is none of it. Runs of one seed repeat its
training up to rounding, so they are averaged first; what another seed would come to is
told by seeds alone.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from report.analysis.cells import Cell
from report.analysis.intervals import Estimate, half_width, median_estimate, too_few
from report.analysis.timings import Evaluated


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
    if cell.seeds > 1:
        reached = [float(np.median(taken)) for taken in by_seed(cell, reached)]
    seconds = median_estimate(reached)
    hours = seconds.value * cell.world_size / 3600
    return TimeTo(cell, target, seconds, hours, apart, seconds.reason)


@dataclass(frozen=True)
class Accuracy:
    """A cell's test accuracy after its last step.

    Args:
      mean: over seeds, with Student's interval.
      spread: standard deviation over seeds, None of a single one.
    """

    cell: Cell
    mean: Estimate
    spread: float | None
    seeds: int


def accuracy(cell: Cell, evaluated: Sequence[Evaluated]) -> Accuracy | None:
    """Over the seeds of a cell's runs; None where one of them has no accuracy.

    Args:
      evaluated: of each of its runs, in their order.
    """
    if not all(run.accuracies for run in evaluated):
        return None
    last = [run.accuracies[-1] for run in evaluated]
    means = [float(np.mean(values)) for values in by_seed(cell, last)]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Accuracy(cell, mean_estimate(means), spread, len(means))


def by_seed(cell: Cell, values: Sequence[float]) -> list[list[float]]:
    """Those of each seed's runs, by seed.

    Args:
      values: one of each of the cell's runs, in their order.
    """
    of: dict[int, list[float]] = defaultdict(list)
    for run, value in zip(cell.runs, values, strict=True):
        of[run.seed].append(value)
    return [of[seed] for seed in sorted(of)]


def mean_estimate(values: Sequence[float]) -> Estimate:
    """The mean of fractions with Student's interval, or why there is none.

    A test set has so many examples, and an accuracy so many values: seeds may come to
    the same one by chance, and an interval without width would be sure of it.

    >>> mean_estimate([0.97, 0.98]).reason
    '2 seeds, an interval needs 3'
    """
    mean, count = float(np.mean(values)), len(values)
    if reason := too_few(values, "seed"):
        return Estimate(mean, reason=reason)
    if min(values) == max(values):
        return Estimate(mean, reason=f"all {count} seeds came to the same figure")
    variance = np.array([np.var(values, ddof=1) / count])
    half = float(half_width(variance, [count - 1]))
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))
