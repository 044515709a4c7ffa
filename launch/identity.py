"""Run every parity check of conf/identity.yaml, and write docs/identity.md.

    python launch/identity.py            the whole matrix, then docs/identity.md
    python launch/identity.py mlp cnn    these checks alone, printed and not written

Each check runs `launch/parity.py` as a process, in a folder under runs/ named by the
commit; those that have a verdict there are not run again. Exit status 1 if any is not
identical.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import json
import shutil
import sys
import time
from pathlib import Path

import yaml

from launch.children import end, start
from launch.cli import end_by_exception, plain_main
from launch.overrides import ROOT
from recipe.errors import ConfigError
from record.environment import git_state
from report.parity.identity import (
    Cell,
    curves_figure,
    measured,
    with_measured,
)

PAGE = ROOT / "docs" / "identity.md"
FIGURE = ROOT / "docs" / "images" / "identity.png"


def main(names: list[str]) -> None:
    """Run the named checks; without names run all and write the page.

    Raises:
      ConfigError: for a check that does not exist.
      SystemExit: 1 if a check is not identical.
    """
    matrix = read_matrix(ROOT / "conf" / "identity.yaml")
    if unknown := sorted(set(names) - matrix.keys()):
        raise ConfigError(
            f"{', '.join(unknown)} is unknown; checks: {', '.join(matrix)}"
        )
    commit, dirty = git_state()
    state = f"{str(commit)[:12]}{'-changed' if dirty else ''}"
    folder = ROOT / "runs" / f"identity-{state}"
    checks = []
    for name in names or matrix:
        begin = time.perf_counter()
        checks.append(run_check(name, matrix[name], folder / name))
        verdict = checks[-1].verdict
        result = checks[-1].error if verdict is None else verdict["verdict"]
        print(f"{name}: {result}, {time.perf_counter() - begin:.0f} s", flush=True)
    if names:
        print(measured(checks, ""))
    else:
        figure = curves_figure(FIGURE, checks)
        text = measured(checks, f"images/{FIGURE.name}" if figure else "")
        PAGE.write_text(with_measured(PAGE.read_text(), text))
        print(f"written: {PAGE.relative_to(ROOT)}")
    if not all(check.passes for check in checks):
        raise SystemExit(1)


def read_matrix(file: Path) -> dict[str, list[str]]:
    """Check -> arguments of `launch/parity.py`, its group's common keys first."""
    return {
        name: [*part["common"].split(), *typed.split()]
        for part in yaml.safe_load(file.read_text()).values()
        for name, typed in part["checks"].items()
    }


def run_check(name: str, typed: list[str], folder: Path) -> Cell:
    """The check's verdict, from its folder if it is there already."""
    if not (folder / "parity.json").exists():
        if folder.exists():  # unfinished
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        with log.open("w") as output:
            command = [sys.executable, "launch/parity.py", *typed]
            check = start([*command, f"run.dir={folder}"], output)
            try:
                check.wait()
            finally:
                end(check)
        if not (folder / "parity.json").exists():
            lines = log.read_text(errors="replace").splitlines()
            errors = [line for line in lines if line.startswith("error: ")]
            error = " ".join(errors or lines[-1:]) or f"see {log}"
            return Cell(name, typed, error=error)
    return Cell(
        name,
        typed,
        json.loads((folder / "parity.json").read_text()),
        json.loads((folder / "torch-1" / "environment.json").read_text()),
    )


if __name__ == "__main__":
    end_by_exception()  # so that the check is ended on exit
    plain_main(main)
