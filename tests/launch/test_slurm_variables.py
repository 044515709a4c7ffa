"""Processes that SLURM's srun would start, started by hand with its variables."""

import os
import subprocess
import sys

import numpy as np

from record.run import read_run
from report.parity import losses
from tests.conftest import NO_GPU, ROOT, clean_environment


def test_the_tasks_of_a_slurm_step_train_one_run(script, framework, tmp_path):
    step = {
        "SLURM_JOB_ID": str(os.getpid()),  # and so a port of this test's own
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "localhost",
    }
    command = [sys.executable, script, "train.steps=6", f"run.dir={tmp_path / 'run'}"]
    tasks = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment()
            | NO_GPU
            | step
            | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [task.communicate(timeout=300)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    run = read_run(tmp_path / "run")
    assert (run.summary["framework"], run.summary["processes"]) == (framework, 2)
    assert np.isfinite(losses(run)).all() and len(losses(run)) == 6
    assert not said[1].strip() or "Gloo" in said[1]  # rank 0 alone speaks


def test_the_batch_script_outside_slurm_says_what_starts_it():
    done = subprocess.run(
        ["bash", "launch/slurm/train.sbatch", "pytorch"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "sbatch launch/slurm/train.sbatch pytorch; without SLURM" in done.stderr
