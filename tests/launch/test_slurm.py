"""Runs that a real SLURM starts, on two nodes."""

import json
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from record.run import read_run
from report.parity import leaf_differences, losses, relative_difference
from tests.conftest import ROOT
from tests.launch.slurm_cluster import NODES, SlurmCluster


def test_a_step_over_two_nodes_has_a_task_on_each(slurm):
    said = slurm.run("srun", "-N2", "-n2", "hostname").stdout
    assert sorted(said.split()) == list(NODES)


def test_a_cluster_that_ends_leaves_no_process_and_no_folder(slurm):
    with SlurmCluster(slurm.env) as other:
        other.run("sbatch", "-o", "/dev/null", "--wrap", "sleep 4242")
        while "sleep 4242" not in "\n".join(other.processes()):
            pass
    assert not other.folder.exists()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True)
    assert "sleep 4242" not in listed.stdout
    assert str(other.folder) not in listed.stdout


SCRIPT_NAMES = {"torch": "pytorch", "jax": "jax"}
RECIPE = ("experiment=digits_mlp", "train.steps=10", "precision=fp64")


@pytest.fixture
def sbatch(slurm, tmp_path):
    """`sbatch("jax", "train.steps=9", flags=("--array=0-1",))`: the job's id.

    Its runs are in `tmp_path`; 2 nodes of 2 tasks, unless the flags say otherwise.
    """

    def submit(framework: str, *overrides: str, flags: tuple[str, ...] = ()) -> str:
        return slurm.run(
            *("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=2"),
            *("--gpus-per-node=2", "--cpus-per-task=1", f"--chdir={ROOT}"),
            *(f"--output={tmp_path}/%j.out", *flags, "launch/slurm/train.sbatch"),
            *(SCRIPT_NAMES[framework], "platform=cpu", *overrides),
            SLURM_SUBMIT_DIR=str(ROOT),
            PYTHON=sys.executable,
            RUNS=str(tmp_path),
        ).stdout.strip()

    return submit


def said(folder) -> str:
    return "".join(path.read_text() for path in folder.glob("*.out"))


def test_two_nodes_of_two_tasks_train_what_torchrun_of_four_does(
    sbatch, slurm, train, framework, tmp_path
):
    job = sbatch(framework, *RECIPE)
    here = read_run(train(framework, *RECIPE, processes=4))
    assert slurm.ended(job) == ["COMPLETED"], said(tmp_path)
    there = read_run(tmp_path / f"slurm-{SCRIPT_NAMES[framework]}-{job}")
    assert (there.summary["processes"], there.summary["world_size"]) == (4, 4)
    assert there.environment["host"] == NODES[0]
    assert relative_difference(losses(there), losses(here)).max() <= 1e-12
    assert max(leaf_differences(there.weights, here.weights).values()) <= 1e-12
    assert f"squeue -j {job}" in said(tmp_path)  # what finds it


def test_an_array_trains_a_seed_in_each_of_its_tasks(sbatch, slurm, tmp_path):
    flags = ("--array=3-4", "--nodes=1", "--ntasks-per-node=1")
    job = sbatch("torch", "experiment=linear_line", "train.steps=2", flags=flags)
    assert slurm.ended(job) == ["COMPLETED"] * 2, said(tmp_path)
    for seed in 3, 4:
        run = read_run(tmp_path / f"slurm-pytorch-{job}_{seed}")
        assert run.config.train.seed == seed


def steps(folder) -> int:
    """Rows of steps that a run has written so far."""
    rows = folder / "metrics.jsonl"
    return rows.read_text().count('"kind": "step"') if rows.exists() else 0


def running(slurm, job: str, folder, after: int = 0) -> None:
    """Wait until a job's run is beyond a step."""
    deadline = time.monotonic() + 120
    while steps(folder) <= after:
        assert time.monotonic() < deadline, slurm.states(job)
        time.sleep(0.05)


def test_a_job_that_was_signalled_and_lost_a_node_ends_as_if_it_had_not(
    sbatch, slurm, train, tmp_path
):
    recipe = ("experiment=linear_line", "train.steps=400", "train.window_steps=1")
    job = sbatch("torch", *recipe, flags=("--ntasks-per-node=1",))
    folder = tmp_path / f"slurm-pytorch-{job}"
    running(slurm, job, folder)
    slurm.run("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@300 does
    deadline = time.monotonic() + 120
    while slurm.states(job) != ["PENDING"]:
        assert time.monotonic() < deadline, said(tmp_path)
    assert "saved; requeued, to go on in" in said(tmp_path)
    stopped = json.loads((folder / "REQUEUE").read_text())
    assert stopped["reason"] == "STOP" and stopped["step"] < 400

    running(slurm, job, folder, after=stopped["step"])
    slurm.run("scancel", "--signal=STOP", job)  # so that it does not end meanwhile
    slurm.run("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
    assert slurm.ended(job) == ["COMPLETED"], said(tmp_path)
    kinds = Counter(row["kind"] for row in read_run(folder).rows)
    assert (kinds["resume"], kinds["step"]) == (2, 400)
    whole = read_run(train("torch", *recipe, processes=2))
    for name, array in read_run(folder).weights.items():
        assert np.array_equal(array, whole.weights[name]), name


def test_scancel_ends_every_process_of_a_run(sbatch, slurm, tmp_path):
    idle = slurm.processes()
    job = sbatch("jax", "train.steps=1000000", flags=("--ntasks-per-node=1",))
    rows = tmp_path / f"slurm-jax-{job}" / "metrics.jsonl"
    while not rows.exists() or not rows.stat().st_size:
        assert slurm.states(job)[0] in ("PENDING", "RUNNING"), said(tmp_path)
        time.sleep(0.2)
    assert "launch/jax.py" in "\n".join(slurm.processes())
    slurm.run("scancel", job)
    assert slurm.ended(job) == ["CANCELLED"]
    deadline = time.monotonic() + 30  # squeue says so before the last has left
    while slurm.processes() != idle and time.monotonic() < deadline:
        time.sleep(0.1)
    assert slurm.processes() == idle
    assert slurm.run("squeue", "-h").stdout == ""
