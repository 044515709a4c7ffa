"""Test accuracy over seeds: a seed is a repeat of a training, and speed is none of it.

Runs of one seed repeat its training up to rounding, so they are averaged first; what
another seed would come to is told by seeds alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from report.accuracy import Evaluated
from report.cells import Cell
from report.intervals import LEAST_REPEATS, Estimate, half_width


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
    means = per_seed(cell, [run.accuracies[-1] for run in evaluated])
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Accuracy(cell, mean_estimate(means), spread, len(means))


def per_seed(cell: Cell, values: Sequence[float]) -> list[float]:
    """The mean over each seed's runs, by seed.

    Args:
      values: one of each of the cell's runs, in their order.
    """
    of: dict[int, list[float]] = defaultdict(list)
    for run, value in zip(cell.runs, values, strict=True):
        of[run.seed].append(value)
    return [float(np.mean(of[seed])) for seed in sorted(of)]


def mean_estimate(values: Sequence[float]) -> Estimate:
    """The mean of fractions with Student's interval, or why there is none.

    A test set has so many examples, and an accuracy so many values: seeds may come to
    the same one by chance, and an interval without width would be sure of it.

    >>> mean_estimate([0.97, 0.98]).reason
    '2 seeds, an interval needs 3'
    """
    mean, count = float(np.mean(values)), len(values)
    if count < LEAST_REPEATS:
        seeds = "1 seed" if count == 1 else f"{count} seeds"
        return Estimate(mean, reason=f"{seeds}, an interval needs {LEAST_REPEATS}")
    if min(values) == max(values):
        return Estimate(mean, reason=f"all {count} seeds came to the same figure")
    variance = np.array([np.var(values, ddof=1) / count])
    half = float(half_width(variance, [count - 1]))
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))
