"""Cells of a study on one machine."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from launch.children import end
from launch.study_job import alone
from tests.conftest import ROOT

SPAN = "import time; print(time.time()); time.sleep(0.3); print(time.time())"
# Ends well only while another runs beside it.
MEET = """
import pathlib, sys, time
folder, own, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
(folder / own).touch()
deadline = time.monotonic() + float(sys.argv[4])
while not (folder / other).exists():
    if time.monotonic() > deadline:
        sys.exit(1)
    time.sleep(0.01)
"""


def test_runs_of_one_lock_never_run_at_once(tmp_path):
    def span(number: int) -> tuple[float, float]:
        log = tmp_path / f"{number}.log"
        command = [sys.executable, "-c", SPAN]
        assert alone(command, {}, log, 1, tmp_path / "lock") == 0
        begin, end = map(float, log.read_text().split())
        return begin, end

    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(span, range(2)))
    assert first[1] <= second[0]


@pytest.mark.parametrize(
    ("locks", "seconds", "met"), [(1, 1, False), (2, 120, True)], ids=["one", "two"]
)
def test_runs_overlap_where_they_have_two_locks(locks, seconds, met, tmp_path):
    def meet(number: int) -> int:
        names = [str(number), str(1 - number)]
        command = [sys.executable, "-c", MEET, tmp_path, *names, str(seconds)]
        lock = tmp_path / f"{number % locks}.lock"
        return alone(list(map(str, command)), {}, tmp_path / f"{number}.log", 1, lock)

    with ThreadPoolExecutor(2) as pool:
        assert (sum(pool.map(meet, range(2))) == 0) == met


def test_a_run_that_was_run_while_it_waited_is_not_run_again(tmp_path):
    command = [sys.executable, "-c", "print('ran')"]
    log = tmp_path / "log"
    log.write_text("an earlier start's\n")
    assert alone(command, {}, log, 1, tmp_path / "lock") == 0
    assert log.read_text() == "an earlier start's\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux pins cores")
def test_a_run_keeps_to_its_cores_and_returns_its_status(tmp_path):
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


def running(process: psutil.Process) -> bool:
    """Whether it does, and is not just unclaimed by whoever adopted it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def launched(tmp_path):
    """A process that has launched a rank, and that rank's."""
    up = tmp_path / "up"
    rank = RANK.format(str(up))

    def launch(*before: str) -> tuple[subprocess.Popen[bytes], psutil.Process]:
        process = subprocess.Popen(
            [sys.executable, *before, "-c", LAUNCHER.format(rank)],
            cwd=ROOT,
            start_new_session=True,
        )
        while not up.exists():
            assert process.poll() is None
            time.sleep(0.05)
        return process, psutil.Process(process.pid).children(recursive=True)[-1]

    return launch


def assert_ends(process: psutil.Process) -> None:
    deadline = time.monotonic() + 60
    while running(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(process)


def test_what_is_ended_takes_the_ranks_it_launched_along(launched):
    launcher, rank = launched()
    end(launcher)
    assert_ends(rank)


# A run as submitit calls it, of the command that follows.
RUN = """
import sys, time
from pathlib import Path
from launch import children, study_job
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
listed = children._suspended
def slowly(first):
    family = listed(first)
    (folder / "suspended").touch()
    time.sleep(seconds)  # as where the machine is busy
    return family
children._suspended = slowly
study_job.alone([sys.executable, *sys.argv[3:]], {}, folder / "log", 1, folder / "lock")
"""


def test_a_run_that_is_killed_before_it_has_ended_its_ranks_leaves_none(
    launched, tmp_path
):
    run, rank = launched("-c", RUN, tmp_path, "60")
    run.send_signal(signal.SIGINT)
    while not (tmp_path / "suspended").exists():
        assert run.poll() is None
        time.sleep(0.02)
    run.kill()  # as submitit does a second after it has interrupted a call
    run.wait()
    assert_ends(rank)


def test_a_run_that_hears_ctrl_c_again_and_again_ends_its_ranks(launched, tmp_path):
    run, rank = launched("-c", RUN, tmp_path, "0.5")
    while run.poll() is None:  # of the terminal, of submitit, of the study
        run.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert_ends(rank)
    assert "error: it was ended" in (tmp_path / "log").read_text()
