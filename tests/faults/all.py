"""Every fault in both frameworks, then docs/reliability.md.

    python tests/faults/all.py               all of them, and the page is written
    python tests/faults/all.py torch save    rows of PyTorch whose name has "save"
    python tests/faults/all.py page          the page alone, of what has been seen

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
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from record.environment import describe_environment, git_state  # noqa: E402
from tests.faults.more import MORE  # noqa: E402
from tests.faults.ranks import Forks  # noqa: E402
from tests.faults.rows import Bench, Broken, make_happen  # noqa: E402
from tests.faults.table import TABLE, slug  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- seen: `make faults` writes what is between these marks -->"
END = "<!-- seen: end -->"
FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX"}

Row = tuple[str, str, Callable[[Bench], str]]


def rows() -> list[Row]:
    """Name, promise, and what makes it happen and says what was seen."""
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
            and known(row[0], framework).get("commit") != state
        ]
        for (name, _, _), mark, seen in happened(framework, todo):
            print(f"{mark} in {framework}: {name}\n    {seen}", flush=True)
            broken += mark == "BROKEN"
            file = kept_in(name, framework)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"commit": state, "seen": seen}))
    if not words:
        write_page()
    raise SystemExit(min(broken, 1))


def happened(framework: str, todo: list[Row]) -> Iterator[tuple[Row, str, str]]:
    """Each row with "kept" or "BROKEN", and what was seen."""
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
                    mark, seen = "kept", row[2](bench)
                except Broken as error:
                    mark, seen = "BROKEN", f"**broken**: {error}"
                print(f"({time.perf_counter() - begin:.0f} s)", end=" ")
                yield row, mark, seen
        subprocess.run(["umount", "-l", str(disk)], check=True)


def kept_in(name: str, framework: str) -> Path:
    return ROOT / "runs" / "faults" / framework / f"{slug(name)}.json"


def known(name: str, framework: str) -> dict[str, str]:
    """What was seen of a row, and at which commit; empty where it was not made yet."""
    file = kept_in(name, framework)
    return json.loads(file.read_text()) if file.exists() else {}


def write_page() -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")
    print(f"written: {PAGE.relative_to(ROOT)}")


def table() -> str:
    """Markdown: where it ran, and a row for each fault."""
    place = describe_environment("torch", [])
    versions = place["packages"]
    packages = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "jax", "flax")
    )
    lines = ["| fault | promised | seen in PyTorch | seen in JAX |", "|---" * 4 + "|"]
    commits = set()
    for name, promise, _ in rows():
        found = [known(name, framework) for framework in FRAMEWORKS]
        commits |= {each["commit"] for each in found if each}
        cells = [name, promise, *(each.get("seen", "not run") for each in found)]
        cells = [" ".join(c.replace("|", "\\|").split())[:600] for c in cells]
        lines.append(f"| {' | '.join(cells)} |")
    where = f"{place['processor']}, {place['cpu_count']} cores, {packages}"
    return f"{where}; commit {' and '.join(sorted(commits))}.\n\n" + "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["page"]:
        write_page()
        raise SystemExit
    if os.environ.get("DUET_FAULTS") != "namespace":
        os.environ["DUET_FAULTS"] = "namespace"
        command = ["unshare", "-rm", "--kill-child", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    os.environ.pop("DUET_FAULTS")
    main(sys.argv[1:])
