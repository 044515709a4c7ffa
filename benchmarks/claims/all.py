"""Measure what is claimed of PyTorch and JAX: `make claims`.

    python benchmarks/claims/all.py           everything, then docs/claims.md
    python benchmarks/claims/all.py cost nan  these parts, printed and not written

First the parity check in fp64: if it fails, nothing is measured and no page written.
Results are kept in docs/claims.json by kind of device, so that a machine with a GPU
fills the GPU's column and leaves the CPU's.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != HERE)]

from benchmarks.all import Failed  # noqa: E402
from benchmarks.claims.measure import NOTES, PARTS, gate  # noqa: E402
from benchmarks.claims.page import FIGURE, figure, page  # noqa: E402
from launch.quiet import busy_share  # noqa: E402
from record.environment import describe_environment, git_state  # noqa: E402
from record.gpus import list_gpus  # noqa: E402

DOCS = ROOT / "docs"


def main(typed: list[str], docs: Path = DOCS) -> int:
    """Measure what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="claims")
    parser.add_argument("parts", nargs="*")
    asked = parser.parse_args(typed).parts
    if unknown := sorted(set(asked) - set(PARTS)):
        print(f"error: {', '.join(unknown)} is unknown; parts: {', '.join(PARTS)}")
        return 2
    begin, load, busy = time.perf_counter(), os.getloadavg()[0], [busy_share()]

    def say(done: str) -> None:
        busy.append(busy_share())  # of others, as nothing of this is running now
        print(f"{done}: {time.perf_counter() - begin:.0f} s", flush=True)

    try:
        gate()
        say("parity in fp64: identical")
        with tempfile.TemporaryDirectory() as cache:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
            results = {name: PARTS[name](say) for name in asked or PARTS}
    except Failed as error:
        print(f"error: nothing is written: {error}")
        return 1
    if asked:
        print(json.dumps(results, indent=1))
        return 0
    machine = describe_machine()
    machine["minutes"] = (time.perf_counter() - begin) / 60
    machine |= {"load": load, "repeats": NOTES["repeats"]}
    machine["busy"] = {"median": statistics.median(busy), "most": max(busy)}
    write(docs, "gpu" if list_gpus() else "cpu", results | {"machine": machine})
    return 0


def describe_machine() -> dict[str, Any]:
    environment = describe_environment("torch", [])
    gpus = environment["gpus"] or {"gpus": []}
    names = [environment["processor"], *(str(gpu["name"]) for gpu in gpus["gpus"])]
    commit, dirty = git_state()
    return {
        "name": ", ".join(names),
        "cores": environment["cpu_count"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": f"{str(commit)[:12]}{', changed' if dirty else ''}",
    }


def write(docs: Path, kind: str, results: dict[str, Any]) -> None:
    """Keep the results beside those of the other kind, and write the page."""
    file = docs / "claims.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    measured = {k: v for k, v in sorted({**kept, kind: results}.items())}
    file.write_text(json.dumps(measured, indent=1) + "\n")
    name = FIGURE if kind == "cpu" else FIGURE.replace(".", f"-{kind}.")
    figure(docs / name, results)
    (docs / "claims.md").write_text(page(NOTES, measured))
    print(f"written: {docs / 'claims.md'}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
