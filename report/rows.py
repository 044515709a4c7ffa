"""A run's rows but for its steps: how long windows took, and what evaluations found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.errors import RecordError
from record.disk import parse_json
from report.accuracy import Evaluated

# What the host times in each window: field -> the part of a step that it is.
HOST_PARTS = {"data_seconds": "data"}


@dataclass(frozen=True)
class Window:
    """A timed window; names as in `metrics.jsonl`.

    Args:
      host_seconds: part -> seconds, for each of `HOST_PARTS` that the row has.
    """

    steps: int
    seconds: float
    rank_seconds: tuple[float, ...]
    host_seconds: dict[str, float]


@dataclass(frozen=True)
class Rows:
    """What lies between a run's steps.

    Args:
      windows: of the last start, warm-up left out.
    """

    windows: tuple[Window, ...]
    evaluated: Evaluated


NOTHING = Rows((), Evaluated((), ()))


def read_between_steps(run: Path) -> Rows:
    """A run's timed windows, and its evaluations with the seconds trained before each.

    Step rows are most of the file, and are passed over unread.

    Raises:
      RecordError: naming the line that is damaged.
    """
    file = run / "metrics.jsonl"
    windows: list[Window] = []
    trained, seconds, accuracies, steps = 0.0, [], [], []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise RecordError(f"cannot read {file}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if line.startswith(b'{"kind": "step"'):
            continue
        where = f"{file} line {number}"
        row = parse_json(line, where)
        try:
            if row["kind"] == "window":
                trained += float(row["seconds"])
                windows += [] if row["warmup"] else [_window(row)]
            elif row["kind"] == "resume":
                windows.clear()
            elif row["kind"] == "evaluation" and row["accuracy"] is not None:
                seconds.append(trained)
                accuracies.append(float(row["accuracy"]))
                steps.append(int(row["step"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{where} is no row of a record: {error!r}") from error
    evaluated = Evaluated(tuple(seconds), tuple(accuracies), tuple(steps))
    return Rows(tuple(windows), evaluated)


def _window(row: dict[str, Any]) -> Window:
    steps, seconds = int(row["steps"]), float(row["seconds"])
    if steps < 1 or not 0 < seconds < float("inf"):
        raise ValueError(f"{steps} steps in {seconds} s")
    return Window(
        steps,
        seconds,
        tuple(map(float, row["rank_seconds"])),
        {part: float(row[f]) for f, part in HOST_PARTS.items() if f in row},
    )
