"""Runs a plan: a process for each part, its file, and the summary after each."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Part, allowed_seconds
from benchmarks.gpu.summary import (
    CUT_OFF,
    ENDED,
    FAILED,
    NEVER,
    RUNNING,
    summary,
)
from launch.children import end, guarded, start
from record.disk import to_json, write_whole
from record.schema import strict_json

POLL_SECONDS = 0.1
TAIL_LINES = 15

Record = dict[str, Any]
Stop = Callable[[], str | None]  # the signal that asked to stop, if one did


def command(part: Part, folder: Path) -> list[str]:
    """The command line of a part."""
    return [sys.executable, "-m", "benchmarks.gpu.part", part.name, str(folder)]


def run_plan(
    parts: Sequence[Part],
    folder: Path,
    seconds: float,
    head: str,
    asked: Stop = lambda: None,
    command: Callable[[Part, Path], list[str]] = command,
) -> list[Record]:
    """Run the parts, one after the other; a failed part does not stop the others.

    Args:
      folder: an existing one, for every file.
      seconds: for all parts.
      head: the first lines of the summary.
      asked: whether to stop now, and by what.

    Returns:
      Each part's record, as its file has it.
    """
    begin = time.monotonic()
    records = [
        {"part": part.name, "title": part.title, "state": NEVER, "why": None}
        for part in parts
    ]

    def write(state: str) -> None:
        text = summary(head, state, records)
        write_whole(folder / "summary.md", text.encode())

    write(RUNNING)
    for part, record in zip(parts, records, strict=True):
        limit = allowed_seconds(part, seconds - (time.monotonic() - begin))
        if asked() or not limit:
            record["why"] = f"stopped by {asked()}" if asked() else "no time was left"
            continue
        record |= {"state": RUNNING, "limit_seconds": limit, "checks": {}}
        _save(folder, record)
        write(RUNNING)
        record |= run_part(part, folder, limit, command(part, folder), asked)
        _save(folder, record)
        write(RUNNING)
        print(f"{part.name}: {record['state']}, {record['seconds']:.0f} s", flush=True)
    spent = f"after {time.monotonic() - begin:.0f} s"
    write(f"stopped by {asked()} {spent}" if asked() else f"done {spent}")
    return records


def _save(folder: Path, record: Record) -> None:
    write_whole(folder / f"{record['part']}.json", to_json(strict_json(record)))


def run_part(
    part: Part, folder: Path, limit: float, command: list[str], asked: Stop
) -> Record:
    """Run one part, and end it with all its descendants at its limit or a signal.

    Returns:
      What it adds to its record, with the checks that it had recorded by then.
    """
    log, begin = folder / f"{part.name}.log", time.monotonic()
    with log.open("w") as output:
        process = start(command, output)
        with guarded(process):
            try:
                while (
                    (status := process.poll()) is None
                    and not asked()
                    and time.monotonic() - begin < limit
                ):
                    time.sleep(POLL_SECONDS)
            finally:
                end(process)
    seconds = time.monotonic() - begin
    # Only records are wanted: a ResNet's weights and state are some hundred megabytes.
    for weights in (folder / part.name).rglob("*.safetensors"):
        weights.unlink()
    checks = json.loads((folder / f"{part.name}.json").read_text())["checks"]
    cut = None
    if status is None:
        cut = f"stopped by {asked()}" if asked() else f"took more than {limit:.0f} s"
    state, why = outcome(status, cut, checks)
    for check in checks.values():
        if check["status"] == RUNNING:
            check["status"] = CUT_OFF if status is None else FAILED
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    said = {"state": state, "why": why, "seconds": seconds, "checks": checks}
    return said | {"output": lines}


def outcome(
    status: int | None, cut: str | None, checks: dict[str, dict[str, Any]]
) -> tuple[str, str | None]:
    """A part's state, and why it is not ENDED.

    Args:
      status: exit status; None if it was ended from here.
      cut: why it was.
    """
    if status is None:
        return CUT_OFF, cut
    bad = [n for n, c in checks.items() if c["status"] in (RUNNING, FAILED)]
    if status == 0 and checks and not bad:
        return ENDED, None
    if status == 0 and not checks:
        return FAILED, "it recorded no check"
    named = f"; not passed: {', '.join(bad)}" if bad else ""
    return FAILED, f"exit status {status}{named}"
