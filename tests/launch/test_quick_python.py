"""What stands in for the interpreter ends as it does, and takes its fork along."""

import signal
import subprocess
import time

import psutil
import pytest

from tests.conftest import NO_GPU, ROOT, clean_environment
from tests.launch.quick_python import KINDS


@pytest.mark.parametrize("script", KINDS)
def test_status_and_both_files_are_those_of_the_interpreter(
    script, run_python, run_quickly, tmp_path
):
    typed = [script, "train.step=5", f"run.dir={tmp_path / 'run'}"]
    ends = [run(typed) for run in (run_python, run_quickly)]
    plain, quick = [(e.returncode, e.stdout, e.stderr) for e in ends]
    assert plain == quick and plain[0] == 2 and plain[2]


def test_what_is_no_script_of_ours_is_left_to_the_interpreter(run_quickly):
    said = run_quickly(["-c", "import sys; print(sys.executable, sys.modules.keys())"])
    assert "torch" not in said.stdout and said.stdout.startswith("/")


@pytest.fixture
def training(quick_python, framework, tmp_path):
    """One that goes on for ever, once it has said so."""
    script = {"torch": "launch/pytorch.py", "jax": "launch/jax.py"}[framework]
    rows = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(
        [quick_python, script, "train.steps=1000000", f"run.dir={rows.parent}"],
        cwd=ROOT,
        env=clean_environment() | NO_GPU,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            while not rows.exists() or not rows.stat().st_size:
                assert process.poll() is None
                time.sleep(0.02)
            yield process, rows
        finally:
            process.kill()


def test_a_signal_is_handed_on(training):
    process, _ = training
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75


def test_a_fork_ends_with_what_stands_for_it(training):
    process, rows = training
    (fork,) = [f for f in psutil.process_iter() if opened(f, rows)]
    process.kill()
    assert psutil.wait_procs([fork], 60)[0] == [fork]


def opened(process: psutil.Process, file) -> bool:
    try:
        return str(file) in {open_file.path for open_file in process.open_files()}
    except psutil.Error:
        return False
