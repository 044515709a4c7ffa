"""Processes that SLURM's srun would start, started by hand with its variables."""

import os
import subprocess
import sys

import numpy as np
import pytest

from record.run import read_run
from report.parity.differences import losses
from tests.conftest import NO_GPU, ROOT, clean_environment


@pytest.mark.quick_in("jax")
def test_the_tasks_of_a_slurm_step_train_one_run(
    script, framework, quick_python, tmp_path
):
    step = {
        "SLURM_JOB_ID": str(os.getpid()),  # and so a port of this test's own
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "localhost",
    }
    # What many a job script exports for torchrun, and srun hands on to its tasks.
    step |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    command = [quick_python, script, "train.steps=6", f"run.dir={tmp_path / 'run'}"]
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


@pytest.fixture
def batch_script(tmp_path):
    """`batch_script("run.dir=x", SLURM_JOB_ID="7")`; srun prints its arguments."""
    for name, text in ("srun", 'printf "%s\\n" "$@"'), ("scontrol", "true"):
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def run(*typed: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "launch/slurm/train.sbatch", "pytorch", *typed],
            cwd=ROOT,
            env=clean_environment()
            | {"PATH": path, "HOME": "/home/me", "PYTHON": sys.executable}
            | variables,
            capture_output=True,
            text=True,
        )

    return run


FOLDERS = {
    "run.dir=runs/a": "runs/a",
    "run.dir=~/a": "/home/me/a",
    "run.dir='/x/q uoted'": "/x/q uoted",
    '++run.dir="/x/a=1,2"': "/x/a=1,2",
    "train.steps=3": "/r=1,2/slurm-pytorch-7",
}


@pytest.mark.parametrize("typed", FOLDERS)
def test_the_batch_script_looks_where_the_run_goes(batch_script, typed):
    done = batch_script(typed, SLURM_JOB_ID="7", RUNS="/r=1,2")
    assert done.returncode == 0, done.stderr
    assert f"run: {FOLDERS[typed]}; log: " in done.stdout
    passed = [line for line in done.stdout.splitlines() if "run.dir=" in line]
    assert passed == [f"run.dir='{FOLDERS[typed]}'"]


def test_the_batch_script_lets_every_task_see_the_gpus_of_its_node(root):
    script = (root / "launch" / "slurm" / "train.sbatch").read_text()
    assert "\n#SBATCH --gpus-per-node=4 " in script
    assert "gpus-per-task" not in script and "gpu-bind" not in script


IMAGES = {
    "duet.sif": "apptainer exec --nv --bind {mounts} --pwd {here} {image} {python}",
    "duet.sqsh": "--container-image={image} --container-mounts={mounts} "
    "--container-mount-home --container-workdir={here} {python}",
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_batch_script_starts_a_container_with_its_folders(
    batch_script, tmp_path, name
):
    image = tmp_path / name
    image.touch()
    given = {"SLURM_JOB_ID": "7", "IMAGE": str(image), "MOUNTS": "/scratch/me /data"}
    done = batch_script("train.steps=3", **given, PYTHON="")
    assert done.returncode == 0, done.stderr
    mounts = f"{ROOT}:{ROOT},/scratch/me:/scratch/me,/data:/data"
    place = {"image": image, "here": ROOT, "python": "/duet/.venv/bin/python"}
    started = IMAGES[name].format(mounts=mounts, **place)
    words = [*started.split(), "launch/pytorch.py", "train.steps=3"]
    said = done.stdout.splitlines()
    assert said[said.index("--kill-on-bad-exit=1") + 1 :][: len(words)] == words


ARRAY = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
WITHOUT = {
    "SLURM": ((), {}, "sbatch launch/slurm/train.sbatch pytorch; without SLURM"),
    "Python": ((), {"SLURM_JOB_ID": "7", "PYTHON": "no/python"}, "PYTHON=/path/to/"),
    "an image": ((), {"SLURM_JOB_ID": "7", "IMAGE": "no.sif"}, "no image at no.sif"),
    "its own seed": (("train.seed=3",), ARRAY, "train.seed=3 is not for an array"),
    "its own folder": (("run.dir=a",), ARRAY, "RUNS=/shared/folder sbatch"),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_the_batch_script_says_in_a_line_what_it_cannot_do(batch_script, what):
    typed, variables, said = WITHOUT[what]
    done = batch_script(*typed, **variables)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert said in done.stderr
