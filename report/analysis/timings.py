"""A run's rows but for its steps: how long windows took, and what evaluations found."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from recipe.errors import RecordError
from record.disk import parse_json
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
      windows: of the last start, warm-up left out.
    """

    windows: tuple[Window, ...]
    evaluated: Evaluated


NOTHING = Rows((), Evaluated((), ()))


def read_between_steps(run: Path, rates: Sequence[float]) -> Rows:
    """A run's timed windows, and its evaluations with the seconds trained before each.

    Step rows are most of the file, and are counted unread.

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
            raise RecordError(f"{where} is no row of a record: {error!r}") from error
    # W&B does not tell where a run went on: earlier starts' windows come before.
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
