"""Every fault in both frameworks, then docs/reliability.md.

    python tests/faults/all.py               all of them, and the page is written
    python tests/faults/all.py torch save    rows of PyTorch whose name has "save"

What has been seen to be kept at this commit, in runs/, is not made to happen again.
It puts itself into a mount namespace of its own, where a disk of a few megabytes can be
filled and made read-only. Exit status 1 if any promise was not kept.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from record.environment import describe_environment, git_state  # noqa: E402
from tests.faults.more import MORE  # noqa: E402
from tests.faults.ranks import Forks  # noqa: E402
from tests.faults.rows import Bench, Broken, make_happen  # noqa: E402
from tests.faults.table import TABLE  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- seen: `make faults` writes what is between these marks -->"
END = "<!-- seen: end -->"
FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX"}


def main(words: list[str]) -> None:
    frameworks = [f for f in FRAMEWORKS if f in words] or list(FRAMEWORKS)
    wanted = [word for word in words if word not in FRAMEWORKS]
    rows: dict[str, dict[str, str]] = {}
    promised: dict[str, str] = {}
    broken = 0
    commit, dirty = git_state()
    file = (
        ROOT / "runs" / f"faults-{str(commit)[:12]}{'-changed' if dirty else ''}.json"
    )
    file.parent.mkdir(exist_ok=True)
    before = json.loads(file.read_text()) if file.exists() else {}
    for framework in frameworks:
        with tempfile.TemporaryDirectory(prefix="duet-faults-") as folder:
            disk = Path(folder, "disk")
            disk.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
            subprocess.run(mount, check=True)
            with Forks(framework, Path(folder, "data")) as forks:
                bench = Bench.make(forks, Path(folder))
                todo = [
                    *((f.name, f.promised, partial(make_happen, f)) for f in TABLE),
                    *((m.name, m.promised, m.happens) for m in MORE),
                ]
                for name, promise, happen in todo:
                    if any(word not in name for word in wanted):
                        continue
                    promised[name] = promise
                    known = before.setdefault(name, {}).get(framework)
                    if known is not None:
                        rows.setdefault(name, {})[framework] = known
                        continue
                    begin = time.perf_counter()
                    try:
                        seen, mark = happen(bench), "kept"
                    except Broken as error:
                        seen, mark = f"**broken**: {error}", "BROKEN"
                        broken += 1
                    rows.setdefault(name, {})[framework] = seen
                    if mark == "kept":
                        before[name][framework] = seen
                        file.write_text(json.dumps(before, indent=2))
                    took = time.perf_counter() - begin
                    print(
                        f"{mark} {framework}: {name} ({took:.0f} s)\n    {seen}",
                        flush=True,
                    )
            subprocess.run(["umount", "-l", str(disk)], check=True)
    if not words:
        PAGE.write_text(with_table(PAGE.read_text(), table(promised, rows)))
        print(f"written: {PAGE.relative_to(ROOT)}")
    raise SystemExit(min(broken, 1))


def table(promised: dict[str, str], rows: dict[str, dict[str, str]]) -> str:
    """Markdown: where it ran, and a row for each fault."""
    place = describe_environment("torch", [])
    packages = ", ".join(
        f"{p} {place['packages'][p]}" for p in ("torch", "jax", "flax")
    )
    changed = ", with local changes" if place["git_dirty"] else ""
    head = (
        f"{place['processor']}, {place['cpu_count']} cores, {packages}; commit "
        f"{str(place['git_commit'])[:12]}{changed}."
    )
    lines = [
        "| fault | promised | seen in PyTorch | seen in JAX |",
        "|---|---|---|---|",
    ]
    for name, promise in promised.items():
        cells = [name, promise, *(rows[name].get(f, "–") for f in FRAMEWORKS)]
        cells = [" ".join(c.replace("|", "\\|").split())[:600] for c in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return head + "\n\n" + "\n".join(lines)


def with_table(page: str, text: str) -> str:
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if os.environ.get("DUET_FAULTS") != "namespace":
        os.environ["DUET_FAULTS"] = "namespace"
        command = ["unshare", "-rm", "--kill-child", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    os.environ.pop("DUET_FAULTS")
    main(sys.argv[1:])
