"""What happens to a run when its terminal is closed."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from record.run import read_summary
from tests.conftest import NO_GPU, ROOT, clean_environment

LONG = [
    "train.steps=100000",
    "train.log_every_steps=20",
    "train.evaluate_every_epochs=0",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]


def until_it_trains(folder: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not (folder / "metrics.jsonl").exists():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def in_a_terminal():
    """`in_a_terminal(command, folder)`: it trains, and its terminal is closed."""

    def start(command: list[str], folder: Path) -> int:
        process, terminal = pty.fork()
        if process == 0:
            os.chdir(ROOT)
            os.execve(command[0], command, clean_environment() | NO_GPU)
        os.set_blocking(terminal, False)  # what it says fits into the kernel's buffer
        try:
            until_it_trains(folder)
        finally:
            os.close(terminal)
            status = os.waitpid(process, 0)[1]
        return os.waitstatus_to_exitcode(status)

    return start


def test_a_run_whose_terminal_is_closed_saves_and_leaves(
    script, in_a_terminal, tmp_path
):
    folder = tmp_path / "run"
    command = [sys.executable, script, *LONG, f"run.dir={folder}"]
    assert in_a_terminal(command, folder) == os.EX_TEMPFAIL
    assert read_summary(folder)["status"] == "stopped"
    assert (folder / "REQUEUE").exists()


def test_a_run_that_outlives_its_terminal_finishes(in_a_terminal, tmp_path):
    folder = tmp_path / "run"
    train = f"{sys.executable} launch/pytorch.py train.steps=600 run.dir={folder}"
    disowned = ["/bin/sh", "-c", f"trap '' HUP; exec {train}"]
    assert in_a_terminal(disowned, folder) == 0
    assert read_summary(folder)["status"] == "finished"


@pytest.mark.parametrize(
    ("before", "options", "more", "status"),
    [
        ([], [], LONG, "stopped"),
        (["nohup"], ["--signals-to-handle=SIGTERM,SIGINT"], [], "finished"),
    ],
    ids=["", "nohup"],
)
def test_torchrun_hands_a_hangup_on_unless_nohup_is_meant(
    before, options, more, status, quick_python, tmp_path
):
    folder = tmp_path / "run"
    torchrun = [*before, quick_python, *TORCHRUN, "--nproc-per-node=2", *options]
    steps = more or ["train.steps=200"]
    with subprocess.Popen(
        [*torchrun, "launch/pytorch.py", *steps, f"run.dir={folder}"],
        cwd=ROOT,
        env=clean_environment() | NO_GPU,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until_it_trains(folder)
            process.send_signal(signal.SIGHUP)
            process.wait(120)
        finally:
            process.terminate()
    assert read_summary(folder)["status"] == status
