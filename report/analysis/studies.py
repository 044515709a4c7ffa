"""Studies that lie among the runs: their plan, and which of its cells are not there."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.errors import RecordError
from record.disk import parse_json, read_text
from report.analysis.runs import LeftOut


@dataclass(frozen=True)
class Study:
    """What `study.json` says.

    Args:
      command: that began it, as typed in a shell.
      cells: names of its run folders, in the order in which they were to run.
      order_seed: that order was drawn from.
    """

    path: Path
    name: str
    command: str
    cells: tuple[str, ...]
    order_seed: int


def read_study(folder: Path) -> tuple[Study, list[LeftOut]]:
    """A study's plan, and each of its cells that left no run folder.

    Raises:
      RecordError: if `study.json` is missing or damaged.
    """
    file = folder / "study.json"
    held = parse_json(read_text(file), file)
    try:
        names = tuple(str(cell["name"]) for cell in held["order"])
        command = shlex.join(["python", *map(str, held["command"])])
        study = Study(
            folder, str(held["name"]), command, names, int(held["order_seed"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{file} is no study's plan: {error!r}") from error
    ended = _ended(folder / "cells.jsonl")
    left_out = []
    for name in names:
        if not (folder / name).is_dir():
            reason = "is planned in study.json and was not run"
            if name in ended:
                reason = f"{ended[name]} before it left a run folder, see {name}.log"
            left_out.append(LeftOut(str(folder / name), reason))
    return study, left_out


def _ended(file: Path) -> dict[str, str]:
    """Cell -> how its last start ended."""
    if not file.exists():
        return {}
    rows: list[Any] = [
        parse_json(line, f"{file} line {number}")
        for number, line in enumerate(read_text(file).splitlines(), start=1)
    ]
    try:
        return {str(row["name"]): str(row["status"]) for row in rows}
    except (KeyError, TypeError) as error:
        raise RecordError(f"{file} is no study's: {error!r}") from error
