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
        file = folder / f"{part.name}.json"

        def seen(record: Record = record, file: Path = file) -> None:
            record["checks"] = json.loads(file.read_text())["checks"]
            write(RUNNING)

        write_whole(file, to_json(strict_json(record)))
        seen()
        record |= run_part(file, limit, command(part, folder), asked, seen)
        conclude(record)
        write_whole(file, to_json(strict_json(record)))
        write(RUNNING)
        print(f"{part.name}: {record['state']}, {record['seconds']:.0f} s", flush=True)
    spent = f"after {time.monotonic() - begin:.0f} s"
    write(f"stopped by {asked()} {spent}" if asked() else f"done {spent}")
    return records


def run_part(
    file: Path, limit: float, command: list[str], asked: Stop, seen: Callable[[], None]
) -> Record:
    """Run one part, and end it with all its descendants at its limit or a signal.

    Args:
      file: of its checks; its output and its folder are beside it.
      seen: called when the file has changed, and at the end.

    Returns:
      How it ended, for its record.
    """
    log, begin = file.with_suffix(".log"), time.monotonic()
    written = file.stat().st_mtime_ns
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
                    if written != (written := file.stat().st_mtime_ns):
                        seen()
            finally:
                end(process)
    seen()
    seconds, why = time.monotonic() - begin, None
    # Only records are wanted: a ResNet's weights and state are some hundred megabytes.
    for weights in file.with_suffix("").rglob("*.safetensors"):
        weights.unlink()
    if status is None:
        why = f"stopped by {asked()}" if asked() else f"took more than {limit:.0f} s"
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return {"status": status, "why": why, "seconds": seconds, "output": lines}


def conclude(record: Record) -> None:
    """The state of a part that is over, from its exit status and its checks.

    A check that it was making is cut off, or has failed, as the part has.
    """
    status, checks = record["status"], record["checks"]
    broken = CUT_OFF if status is None else FAILED
    for check in checks.values():
        if check["status"] == RUNNING:
            check["status"] = broken
    failed = [name for name, check in checks.items() if check["status"] == FAILED]
    if status == 0 and checks and not failed:
        record["state"] = ENDED
        return
    record["state"] = broken
    if status is not None:
        named = f"; failed: {', '.join(failed)}" if failed else ""
        none = "; it recorded no check" if not checks else ""
        record["why"] = f"exit status {status}{named}{none}"
