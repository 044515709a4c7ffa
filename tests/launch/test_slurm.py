"""Runs that a real SLURM starts, on two nodes."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from record.run import read_run
from report.parity.differences import (
    leaf_differences,
    losses,
    relative_difference,
)
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

    def submit(
        framework: str,
        *overrides: str,
        flags: tuple[str, ...] = (),
        python: str | Path = sys.executable,
    ) -> str:
        return slurm.run(
            *("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=2"),
            *("--gpus-per-node=2", "--cpus-per-task=1", f"--chdir={ROOT}"),
            *(f"--output={tmp_path}/%j.out", *flags, "launch/slurm/train.sbatch"),
            *(SCRIPT_NAMES[framework], "platform=cpu", *overrides),
            SLURM_SUBMIT_DIR=str(ROOT),
            PYTHON=str(python),
            RUNS=str(tmp_path),
        ).stdout.strip()

    return submit


def said(folder) -> str:
    return "".join(path.read_text() for path in folder.glob("*.out"))


# Python where a node's own name is another address to it than to the others.
DEBIAN = f"""#!/bin/sh
exec unshare --mount sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' \
  {{folder}}/hosts.$SLURMD_NODENAME {sys.executable} "$@"
"""


@pytest.fixture
def debian(tmp_path):
    for node in NODES:
        others = " ".join(["localhost", *(name for name in NODES if name != node)])
        own = f"127.0.1.1 {node}\n127.0.0.1 {others}\n"
        (tmp_path / f"hosts.{node}").write_text(own)
    python = tmp_path / "python"
    python.write_text(DEBIAN.format(folder=tmp_path))
    python.chmod(0o755)
    return python


@pytest.mark.quick_in("jax")
def test_two_nodes_of_two_tasks_train_what_torchrun_of_four_does(
    sbatch, slurm, train, framework, debian, tmp_path
):
    job = sbatch(framework, *RECIPE, python=debian)
    here = read_run(train(framework, *RECIPE, processes=4))
    assert slurm.ended(job) == ["COMPLETED"], said(tmp_path)
    there = read_run(tmp_path / f"slurm-{SCRIPT_NAMES[framework]}-{job}")
    assert (there.summary["processes"], there.summary["world_size"]) == (4, 4)
    assert there.environment["host"] == NODES[0]
    assert relative_difference(losses(there), losses(here)).max() <= 1e-12
    assert max(leaf_differences(there.weights, here.weights).values()) <= 1e-12
    assert f"squeue -j {job}" in said(tmp_path)  # what finds it


def steps(folder) -> int:
    """Rows of steps that a run has written so far."""
    rows = folder / "metrics.jsonl"
    return rows.read_text().count('"kind": "step"') if rows.exists() else 0


def requeued(log) -> int:
    """How often the batch script had its job begin again."""
    return log.read_text().count("saved; requeued, to go on in")


def waiting(until: Callable[[], bool], slurm) -> None:
    deadline = time.monotonic() + 300
    while not until():
        assert time.monotonic() < deadline, slurm.run("squeue").stdout
        time.sleep(0.05)


def freeze_beyond(slurm, runs, step) -> None:
    """Stop each job's ranks once its run is beyond a step, lest it end meanwhile."""
    going = set(runs)

    def all_frozen() -> bool:
        for job in [job for job in going if steps(runs[job]) > step[job]]:
            slurm.run("scancel", "--signal=STOP", job)
            going.remove(job)
        return not going

    waiting(all_frozen, slurm)


def test_jobs_that_meet_their_limit_or_lose_a_node_end_as_if_they_had_not(
    sbatch, slurm, train, tmp_path
):
    recipe = ("experiment=linear_line", "train.steps=600", "train.log_every_steps=1")
    limit = ("--time=60", "--signal=B:USR1@590")
    flags = (*limit, "--ntasks-per-node=1", "--gpus-per-node=1")
    runs = {}
    for framework, name in SCRIPT_NAMES.items():  # a node has room for both
        job = sbatch(framework, *recipe, flags=flags)
        runs[job] = tmp_path / f"slurm-{name}-{job}"
    freeze_beyond(slurm, runs, dict.fromkeys(runs, 0))
    # Only now is the limit near: a job that is still being launched would not hear the
    # signal, which comes within 30 s, since SLURM looks at limits as often as that.
    for job in runs:
        slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    waiting(lambda: all((run / "STOP").exists() for run in runs.values()), slurm)
    slurm.run("scancel", "--signal=CONT", *runs)
    left = {}

    def all_requeued() -> bool:  # for a while only, and not at once
        for job in [job for job in runs if job not in left]:
            if slurm.states(job) == ["PENDING"]:
                left[job] = json.loads((runs[job] / "REQUEUE").read_text())
                slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
        return len(left) == len(runs)

    waiting(all_requeued, slurm)
    assert [requeued(tmp_path / f"{job}.out") for job in runs] == [1, 1]
    # Each rank looks for the file; the first may find it before the rank that says so.
    assert {stop["reason"] for stop in left.values()} <= {"STOP", "another rank"}
    freeze_beyond(slurm, runs, {job: stop["step"] for job, stop in left.items()})
    slurm.lose(NODES[1])
    wholes = [train(framework, *recipe, processes=2) for framework in SCRIPT_NAMES]
    for (job, folder), whole in zip(runs.items(), wholes, strict=True):
        assert slurm.ended(job) == ["COMPLETED"], said(tmp_path)
        run = read_run(folder)
        kinds = Counter(row["kind"] for row in run.rows)
        assert (kinds["resume"], kinds["step"]) == (2, 600)
        for name, array in read_run(whole).weights.items():
            assert np.array_equal(array, run.weights[name]), name


def test_an_array_trains_a_seed_in_each_of_its_tasks_and_the_last_is_requeued_alone(
    sbatch, slurm, tmp_path
):
    flags = ("--array=3-4", "--nodes=1", "--ntasks-per-node=1")
    recipe = ("experiment=linear_line", "train.steps=1200", "train.log_every_steps=1")
    array = sbatch("torch", *recipe, flags=flags)
    first, last = f"{array}_3", f"{array}_4"  # the array's id is also the last one's
    runs = {job: tmp_path / f"slurm-pytorch-{job}" for job in (first, last)}
    freeze_beyond(slurm, runs, dict.fromkeys(runs, 0))
    slurm.run("scancel", "--signal=USR1", "--batch", last)
    waiting((runs[last] / "STOP").exists, slurm)
    slurm.run("scancel", "--signal=CONT", last)
    waiting(lambda: slurm.states(last) == ["PENDING"], slurm)
    assert slurm.states(first) == ["STOPPED"]
    slurm.run("scancel", "--signal=CONT", first)
    assert slurm.ended(array) == ["COMPLETED"] * 2, said(tmp_path)
    assert said(tmp_path).count("saved; requeued, to go on in") == 1
    for seed, (job, folder) in zip((3, 4), runs.items(), strict=True):
        assert f"squeue -j {job} " in said(tmp_path)
        run = read_run(folder)
        resumed = [row for row in run.rows if row["kind"] == "resume"]
        assert (run.config.train.seed, len(resumed)) == (seed, int(job == last))


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


TAKES = """
import os
from runtime.devices import listed, own_devices
from runtime.processes import from_environment

processes = from_environment(os.environ)
# Where nothing masks them a node's two GPUs are seen.
mask = listed(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1"))
(own,) = own_devices(os.environ, len(mask), processes, 1, "PyTorch")
print(processes.rank, processes.local_count, len(mask), mask[own])
"""
BOUND = {
    ("--gpus-per-node=2", "--gpu-bind=none"): 2,
    ("--gpus-per-node=2",): 2,
    ("--gres=gpu:2",): 2,
    ("--gpus-per-task=1",): 1,
    ("--gpus-per-task=1", "--gpu-bind=none"): 2,
    ("--gpus-per-node=2", "--gpu-bind=single:1"): 1,
    ("--gpus-per-node=2", "--gpu-bind=map_gpu:1,0"): 1,
}


@pytest.mark.parametrize("flags", BOUND, ids=" ".join)
def test_each_task_of_a_node_takes_another_gpu_however_they_are_bound(slurm, flags):
    done = slurm.run(
        *("srun", "-N2", "--ntasks-per-node=2", "-n4", "-c1", f"--chdir={ROOT}"),
        *(*flags, sys.executable, "-c", TAKES),
        PYTHONPATH=str(ROOT),
    )
    tasks = sorted(line.split() for line in done.stdout.splitlines())
    assert [int(rank) for rank, *_ in tasks] == [0, 1, 2, 3]
    assert {(int(on), int(sees)) for _, on, sees, _ in tasks} == {(2, BOUND[flags])}
    gpus = [gpu for *_, gpu in tasks]
    assert sorted(gpus[:2]) == sorted(gpus[2:]) == ["0", "1"]


SHARE = {
    ("--gpus-per-node=1",): "cannot share any; .*SLURM_GPUS_ON_NODE=1",
    ("--gpus-per-node=1", "--gpu-bind=none"): "sees 2 .* gave this step 1, .* which",
}


@pytest.mark.parametrize("flags", SHARE, ids=" ".join)
def test_tasks_that_would_share_a_gpu_are_refused_on_every_node(slurm, flags):
    done = slurm.run(
        *("srun", "-N2", "--ntasks-per-node=2", "-n4", "-c1", f"--chdir={ROOT}"),
        *(*flags, sys.executable, "-c", TAKES),
        PYTHONPATH=str(ROOT),
        check=False,
    )
    assert done.returncode and not done.stdout
    assert len(re.findall(SHARE[flags], done.stderr)) == 4
