"""Cells of a study on one machine."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from launch.cell import alone
from launch.training import end

SPAN = "import time; print(time.time()); time.sleep(0.3); print(time.time())"


@pytest.mark.parametrize("locks", [1, 2], ids=["one lock", "two locks"])
def test_cells_of_one_lock_never_run_at_once(locks, tmp_path):
    def span(number: int) -> tuple[float, float]:
        log = tmp_path / f"{number}.log"
        lock = tmp_path / f"{number % locks}.lock"
        assert alone([sys.executable, "-c", SPAN], {}, log, 1, lock) == 0
        begin, end = map(float, log.read_text().split())
        return begin, end

    def overlap() -> bool:
        with ThreadPoolExecutor(2) as pool:
            first, second = sorted(pool.map(span, range(2)))
        for log in tmp_path.glob("*.log"):
            log.unlink()
        return second[0] < first[1]

    # Without a lock in common they do, unless the machine starts one very late.
    overlaps = [overlap() for _ in range(1 if locks == 1 else 5)]
    assert any(overlaps) == (locks == 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux pins cores")
def test_a_cell_keeps_to_its_cores_and_returns_its_status(tmp_path):
    log = tmp_path / "log"
    probe = "import os; print(len(os.sched_getaffinity(0)), os.environ['A']); exit(3)"
    with ThreadPoolExecutor(1) as pool:  # what is pinned is the thread that calls
        command = [sys.executable, "-c", probe]
        status = pool.submit(alone, command, {"A": "b"}, log, 1, tmp_path / "lock")
        assert status.result() == 3
    assert log.read_text() == "1 b\n"


# A rank as torchrun starts it: in a session of its own.
RANK = "import time; open({!r}, 'w').close(); time.sleep(600)"
LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {!r}], start_new_session=True).wait()
"""


def test_what_is_ended_takes_the_ranks_it_launched_along(tmp_path):
    up = tmp_path / "up"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER.format(RANK.format(str(up)))],
        start_new_session=True,
    )
    while not up.exists():
        time.sleep(0.05)
    (rank,) = psutil.Process(launcher.pid).children()
    end(launcher)
    rank.wait(10)
    assert not rank.is_running()
