"""Every fault in both frameworks, then docs/reliability.md and docs/reliability.json.

    python tests/faults/all.py               all of them, and both are written
    python tests/faults/all.py torch save    rows of PyTorch whose name has "save"
    python tests/faults/all.py page          both files alone, of what has been seen

It puts itself into a mount namespace of its own, where a disk of a few megabytes can be
filled and made read-only. What was seen to be kept at this commit lies in runs/faults/
and is not made to happen again. Exit status 1 if any promise was not kept.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from record.environment import describe_environment, git_state  # noqa: E402
from tests.faults.more import MORE  # noqa: E402
from tests.faults.page import FRAMEWORKS, write_page  # noqa: E402
from tests.faults.ranks import Forks  # noqa: E402
from tests.faults.rows import Bench, Broken, Seen, make_happen  # noqa: E402
from tests.faults.table import TABLE, slug  # noqa: E402

PACKAGES = ("torch", "jax", "flax")

Row = tuple[str, str, Callable[[Bench], Seen]]


def rows() -> list[Row]:
    """Name, promise, and what makes it happen and tells what was seen."""
    return [
        *((fault.name, fault.promised, partial(make_happen, fault)) for fault in TABLE),
        *((more.name, more.promised, more.happens) for more in MORE),
    ]


def main(words: list[str]) -> None:
    frameworks = [f for f in FRAMEWORKS if f in words] or list(FRAMEWORKS)
    wanted = [word for word in words if word not in FRAMEWORKS]
    commit, dirty = git_state()
    state = f"{str(commit)[:12]}{', with local changes' if dirty else ''}"
    broken = 0
    for framework in frameworks:
        todo = [
            row
            for row in rows()
            if all(word in row[0] for word in wanted)
            and not kept_at(state, known(row[0], framework))
        ]
        for (name, _, _), kept, seen in happened(framework, todo):
            mark = "kept" if kept else "BROKEN"
            print(f"{mark} in {framework}: {name}\n    {seen}", flush=True)
            broken += not kept
            file = seen_in(name, framework)
            file.parent.mkdir(parents=True, exist_ok=True)
            told = {"commit": state, "kept": kept, **asdict(seen)}
            file.write_text(json.dumps(told))
    if not words:
        write_page(ROOT / "docs", report())
    raise SystemExit(min(broken, 1))


def happened(framework: str, todo: list[Row]) -> Iterator[tuple[Row, bool, Seen]]:
    """Each row, whether its promise was kept, and what was seen."""
    if not todo:
        return
    with tempfile.TemporaryDirectory(prefix="duet-faults-") as folder:
        disk = Path(folder, "disk")
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
        subprocess.run(mount, check=True)
        with Forks(framework, Path(folder, "data")) as forks:
            bench = Bench.make(forks, Path(folder))
            for row in todo:
                begin = time.perf_counter()
                try:
                    kept, seen = True, row[2](bench)
                except Broken as error:
                    kept, seen = False, Seen(str(error))
                print(f"({time.perf_counter() - begin:.0f} s)", end=" ")
                yield row, kept, seen
        subprocess.run(["umount", "-l", str(disk)], check=True)


def kept_at(state: str, seen: dict[str, Any]) -> bool:
    return seen.get("commit") == state and seen["kept"]


def seen_in(name: str, framework: str) -> Path:
    return ROOT / "runs" / "faults" / framework / f"{slug(name)}.json"


def known(name: str, framework: str) -> dict[str, Any]:
    """What was seen of a row, and at which commit; empty where it was not made yet."""
    file = seen_in(name, framework)
    return json.loads(file.read_text()) if file.exists() else {}


def report() -> dict[str, Any]:
    """What docs/reliability.json holds: where it ran, and every fault in both."""
    place = describe_environment("torch", [])
    faults = []
    for name, promised, _ in rows():
        found = {framework: known(name, framework) for framework in FRAMEWORKS}
        faults.append({"fault": name, "promised": promised, **found})
    return {
        "processor": place["processor"],
        "cores": place["cpu_count"],
        "packages": {name: place["packages"][name] for name in PACKAGES},
        "faults": faults,
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["page"]:
        write_page(ROOT / "docs", report())
        raise SystemExit
    if os.environ.get("DUET_FAULTS") != "namespace":
        os.environ["DUET_FAULTS"] = "namespace"
        command = ["unshare", "-rm", "--kill-child", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    os.environ.pop("DUET_FAULTS")
    main(sys.argv[1:])
