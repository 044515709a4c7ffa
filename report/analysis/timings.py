"""A run's rows but for its steps: how long windows took, and what evaluations found.

The time to an accuracy is that of the timed windows, warm-up included, up to the
evaluation that first reached it: compilation, start-up and the evaluations themselves
are excluded. It is known no finer than evaluations are apart; of a run that was
evaluated only at its end it would be the time of the whole training, and so there is
none.

For accuracy a seed is a repeat, for speed it is not. Runs of one seed repeat its
training up to rounding, so they are averaged first: only other seeds show what another
seed would give.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recipe.errors import RecordError
from record.disk import parse_json
from report.analysis.cells import Cell
from report.analysis.intervals import Estimate, half_width, median_estimate, too_few
from report.analysis.runs import DAMAGE


@dataclass(frozen=True)
class Window:
    """A timed window; names as in `metrics.jsonl`.

    Args:
      data_seconds: of the host's, to plan batches and place them; None if not timed.
    """

    steps: int
    seconds: float
    rank_seconds: tuple[float, ...]
    data_seconds: float | None


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


@dataclass(frozen=True)
class Rows:
    """What lies between a run's steps.

    Args:
      windows: of the last start, warm-up excluded.
    """

    windows: tuple[Window, ...]
    evaluated: Evaluated


NOTHING = Rows((), Evaluated((), ()))


def read_between_steps(run: Path, rates: Sequence[float]) -> Rows:
    """A run's timed windows, and its evaluations with the seconds trained before each.

    Step rows are most of the file, and are format_count unread.

    Args:
      rates: images/s of its timed windows as `summary.json` has them.

    Raises:
      RecordError: naming the line that is damaged or before which some are missing, or
        if the windows are not those of the summary.
    """
    file = run / "metrics.jsonl"
    windows: list[tuple[float, Window]] = []
    done = timed = 0  # steps so far, and of these up to the last window
    trained, seconds, accuracies, steps = 0.0, [], [], []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise RecordError(f"cannot read {file}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if line.startswith(b'{"kind": "step"'):
            done += 1
            continue
        if line.startswith(b'{"kind": "round"'):
            continue
        where = f"{file} line {number}"
        row = parse_json(line, where)
        try:
            measured = row["kind"] == "window" and row.get("measured", False)
            if row["step"] != done and not (measured and row["step"] > done):
                raise ValueError(f"of step {row['step']}, after {done} steps")
            if measured:
                windows.append((float(row["images_per_second"]), _window(row)))
            elif row["kind"] == "window":
                window = _window(row)
                timed += window.steps
                if timed != done:
                    raise ValueError(f"windows of {timed} steps, after {done} steps")
                trained += window.seconds
                if not row["warmup"]:
                    windows.append((float(row["images_per_second"]), window))
            elif row["kind"] == "resume":
                windows.clear()
            elif row["kind"] == "evaluation" and row["accuracy"] is not None:
                seconds.append(trained)
                accuracies.append(float(row["accuracy"]))
                steps.append(done)
        except DAMAGE as error:
            raise RecordError(f"{where} is not a row of a record: {error!r}") from error
    # W&B does not tell where a run was resumed: earlier starts' windows come before.
    last = windows[-len(rates) :]
    if [rate for rate, _ in last] != list(rates):
        raise RecordError(
            f"{file} does not end with the {len(rates)} timed windows of summary.json"
        )
    return Rows(
        tuple(window for _, window in last),
        Evaluated(tuple(seconds), tuple(accuracies), tuple(steps)),
    )


def _window(row: dict[str, Any]) -> Window:
    steps, seconds = int(row["steps"]), float(row["seconds"])
    if steps < 1 or not 0 < seconds < float("inf"):
        raise ValueError(f"{steps} steps in {seconds} s")
    return Window(
        steps,
        seconds,
        tuple(map(float, row["rank_seconds"])),
        float(row["data_seconds"]) if "data_seconds" in row else None,
    )


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
        return Estimate(mean, reason=f"all {count} seeds reached the same figure")
    variance = np.array([np.var(values, ddof=1) / count])
    half = float(half_width(variance, [count - 1]))
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))
