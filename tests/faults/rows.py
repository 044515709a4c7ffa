"""A row of the table made to happen, and what was seen."""

import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from record.run import read_rows, read_run
from tests.faults.ranks import Forks, Ranks
from tests.faults.table import RECIPE, Fault

PATIENT = "parallel.start_timeout_seconds=60"
SAME = "every loss and weight as uninterrupted, bit for bit"
HEAD = "rank = {rank}\nimport os\nfrom tests.faults.inject import *\n"


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Seen:
    """What was seen of a fault whose promise was kept.

    Args:
      result: what became of the run.
      seconds: from the start of the run until its last rank had left; None where a
        row is of several runs.
      exits: each rank's status, or what ended it, in order of rank.
      message: the line that a rank printed.
      resumed: where the next start resumed.
    """

    result: str
    seconds: float | None = None
    exits: tuple[str, ...] = ()
    message: str = ""
    resumed: str = ""


@dataclass
class Bench:
    """Where rows of one framework are run.

    Args:
      forks: of that framework.
      folder: for run folders, on a disk of its own where a row is to fill that.
      whole: the uninterrupted run that all others are compared with.
      python: that torchrun is started with.
    """

    forks: Forks
    folder: Path
    whole: Path
    python: str | Path = sys.executable

    @classmethod
    def make(cls, forks: Forks, folder: Path) -> "Bench":
        whole = folder / "whole"
        ranks = forks.start(*RECIPE, f"run.dir={whole}")
        expect(ranks.wait() == [0, 0], ranks.said())
        return cls(forks, folder, whole)


def expect(kept: bool, said: str) -> None:
    if not kept:
        raise Broken(said)


def make_happen(fault: Fault, bench: Bench) -> Seen:
    """One row, in one framework.

    Raises:
      Broken: where the promise was not kept.
    """
    disk = bench.folder / "disk"
    run = disk / "run"
    shutil.rmtree(run, ignore_errors=True)
    disk.mkdir(exist_ok=True)
    names = {"{run}": str(run), "{disk}": str(disk)}
    names["{corrupt}"] = str(corrupt_dataset(bench.folder))
    overrides = [*RECIPE, *(filled(o, names) for o in fault.overrides)]
    hit = range(2) if tuple(fault.ranks) == (-1,) else fault.ranks
    faults = {rank: HEAD.format(rank=rank) + filled(fault.code, names) for rank in hit}
    begin = time.monotonic()
    ranks = bench.forks.start(
        *overrides, f"run.dir={run}", faults=faults, **fault.variables
    )
    frozen = [rank for rank, status in enumerate(fault.statuses) if status is None]
    statuses = wait(ranks, frozen, fault.seconds)
    took = time.monotonic() - begin
    said = ranks.said()
    # What was frozen is thawed: it finds that it is alone, and leaves.
    ranks.send(signal.SIGCONT, frozen)
    thawed = ranks.wait(30)
    ranks.end()
    expect(None not in thawed, f"a process is left over: {thawed}\n{said}")
    expect(statuses == list(fault.statuses), f"left with {statuses}\n{said}")
    line = re.search(fault.says, said)
    expect(line is not None, f"it did not say {fault.says}\n{said}")
    expect(len(re.findall("^(error|stopped): ", said, re.M)) <= 1, f"twice\n{said}")
    asked = (run / "REQUEUE").exists()
    expect(asked == fault.asks, f"REQUEUE is {'' if asked else 'not '}there\n{said}")
    message = ""
    if line is not None and fault.says:
        message = short(said[line.start() :].splitlines()[0], bench, run)
    if fault.damage is not None:
        fault.damage(run)
    resumed = resume([*overrides, PATIENT], run, bench) if fault.resumes else ""
    result = "refused"
    if fault.resumes or 0 in fault.statuses:
        same_bits(bench.whole, run)
        result = SAME
    return Seen(result, round(took, 1), words(statuses), message, resumed)


def resume(overrides: list[str], run: Path, bench: Bench) -> str:
    """Start the same command again, with nothing in its way; where it resumed."""
    ranks = bench.forks.start(*overrides, f"run.dir={run}")
    statuses = ranks.wait()
    said = ranks.said()
    ranks.end()
    expect(statuses == [0, 0], f"started again, left with {statuses}\n{said}")
    expect(not (run / "REQUEUE").exists(), "REQUEUE is still there")
    expect(not list(run.rglob("*.partial")), "a file is half-written")
    expect(not list(run.rglob(".saving-*")), "a checkpoint is half-written")
    rows = read_rows(run)
    resumed = [row for row in rows if row["kind"] == "resume"]
    if not resumed:
        return "from the beginning"
    left_out = resumed[-1]["left_out"]
    why = f"; skipped: {short(left_out[0], bench, run)}" if left_out else ""
    return f"after step {resumed[-1]['step']}{why}"


def same_bits(one: Path, other: Path) -> None:
    """Every step's loss, norm and rate, the test scores and the weights."""
    first, second = read_run(one), read_run(other)
    expect(first.of_kind("step") == second.of_kind("step"), f"{other}: other losses")
    expect(first.summary["test"] == second.summary["test"], f"{other}: other scores")
    for name, array in first.weights.items():
        same = np.array_equal(array, second.weights[name])
        expect(same, f"{other}: {name} is another")


def wait(ranks: Ranks, frozen: list[int], seconds: float) -> list[int | None]:
    """As `Ranks.wait`, but not for those that are to be frozen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        statuses = ranks.wait(0)
        if all(s is not None or r in frozen for r, s in enumerate(statuses)):
            return statuses
        time.sleep(0.02)
    return ranks.wait(0)


def filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


def corrupt_dataset(folder: Path) -> Path:
    """MNIST's four files, of which none is what its name says."""
    place = folder / "corrupt"
    (place / "mnist").mkdir(parents=True, exist_ok=True)
    for part in "train", "t10k":
        for kind in "images-idx3", "labels-idx1":
            (place / "mnist" / f"{part}-{kind}-ubyte").write_bytes(b"corrupt")
    return place


def words(statuses: list[int | None]) -> tuple[str, ...]:
    named = {-9: "SIGKILL", None: "frozen"}
    return tuple(named.get(status, str(status)) for status in statuses)


def short(text: str, bench: Bench, run: Path) -> str:
    """Without what differs by machine and moment."""
    text = text.replace(str(run), "RUN").replace(str(bench.folder), "TMP")
    return re.sub(r"process \d+ on [^\s);]+", "process … on …", text)


@contextmanager
def bench(framework: str) -> Iterator[Bench]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Forks(framework, Path(folder, "data")) as forks,
    ):
        yield Bench.make(forks, Path(folder))
