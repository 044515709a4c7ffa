"""What a study asks of SLURM, in the script that submitit writes, and of CUDA."""

import sys

import pytest
import submitit
from submitit.slurm.slurm import _make_sbatch_string

from launch.cluster import Work, run
from launch.submission import srun_words, submission
from recipe.cluster import ClusterConfig
from recipe.errors import ConfigError

ASKED = {
    "qos": "high",
    "constraint": "ib&a100",
    "memory": "64G",
    "reservation": "course",
    "gpus_per_node": 8,
    "gpu_type": "1g.10gb",
    "setup": ["module load cuda"],
    "srun_args": ["--mpi=none"],
    "additional": ["--comment=my study", "contiguous"],
}


def script(tasks: int, devices: int, **keys) -> str:
    asked = submission(ClusterConfig(name="slurm", **keys), tasks, devices, cores=2)
    return _make_sbatch_string(command="true", folder="/tmp", **asked)


def test_every_key_of_the_cluster_is_in_the_script():
    lines = script(16, 16, **ASKED).splitlines()
    for flag in (
        *("qos=high", "constraint='ib&a100'", "mem=64G", "reservation=course"),
        *("gpus-per-node=1g.10gb:8", "comment='my study'", "contiguous", "nodes=2"),
        *("ntasks-per-node=8", "cpus-per-task=2", "exclusive", "no-requeue"),
    ):
        assert f"#SBATCH --{flag}" in lines
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1 --cpus-per-task=2 --mpi=none true" in srun
    assert lines.index("module load cuda") < lines.index(srun)


def test_what_is_not_asked_for_is_not_in_the_script():
    names = {
        line.removeprefix("#SBATCH --").partition("=")[0]
        for line in script(1, 1).splitlines()
        if line.startswith("#SBATCH")
    }
    assert names == {
        *("cpus-per-task", "exclusive", "job-name", "no-requeue", "nodes"),
        *("ntasks-per-node", "open-mode", "output", "signal", "time"),
    }
    assert "wckey" in script(1, 1, additional=["--wckey=mine"])


def test_a_check_of_one_task_has_the_cores_and_gpus_of_all_its_devices():
    lines = script(1, 4, gpus_per_node=8).splitlines()
    assert "#SBATCH --gpus-per-node=4" in lines
    assert "#SBATCH --cpus-per-task=8" in lines


def test_a_plan_shows_one_srun_that_asks_for_as_much():
    words = srun_words(ClusterConfig(name="slurm", **ASKED), 16, 16, cores=2)
    assert " ".join(words) == (
        "srun --nodes=2 --ntasks-per-node=8 --gpus-per-node=1g.10gb:8 --time=30 "
        "--qos=high --constraint='ib&a100' --mem=64G --exclusive "
        "--comment='my study' --contiguous --reservation=course "
        "--kill-on-bad-exit=1 --cpus-per-task=2 --mpi=none"
    )


REFUSED = {
    "is set by the study; use cluster.minutes": {"additional": ["--time=3"]},
    "use study.world_size and": {"additional": ["nodes=3"]},
    "to find its jobs": {"additional": ["--array=0-3"]},
    "not a long flag": {"additional": ["-J x"]},
    "srun_args: --ntasks is set by the study": {
        "srun_args": ["--mpi=none", "--ntasks=1"]
    },
    "use cluster.cores_per_device": {"srun_args": ["-c", "1"]},
    "srun_args: a study sets --output": {"srun_args": ["-o", "mine.log"]},
    "asks for no GPU": {"gpu_type": "a100"},
    "a task needs a GPU": {"gpus_per_node": 2, "tasks_per_node": 3},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_the_study_decides_itself_is_refused(words):
    with pytest.raises(ConfigError, match=words):
        ClusterConfig(name="slurm", **REFUSED[words])


@pytest.mark.parametrize("key", ["partition", "memory", "setup", "additional"])
def test_what_is_slurms_is_refused_on_one_machine(key):
    value = "x" if key in ("partition", "memory") else ["x"]
    with pytest.raises(ConfigError, match=rf"cluster.{key}=.* is for SLURM only; add"):
        ClusterConfig(name="local", **{key: value})


def test_a_cell_sees_as_many_gpus_as_it_trains_on_by_their_uuids(tmp_path, monkeypatch):
    given = {}

    class Executor:
        def __init__(self, folder):
            pass

        def update_parameters(self, **parameters):
            assert "visible_gpus" not in parameters  # it takes no UUID

        def submit(self, function, command, variables, *others):
            given.update(variables)
            return self

        def done(self) -> bool:
            return True

    monkeypatch.setattr(submitit, "LocalExecutor", Executor)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a1,MIG-b2,GPU-c3")
    monkeypatch.setenv("PYTHONPATH", "")  # which it sets, and which is then put back
    work = Work("cell", [sys.executable], [], devices=2, tasks=2, log=tmp_path / "log")
    local = ClusterConfig(name="local", gpus_per_node=3)
    for gpus, visible in (3, "GPU-a1,MIG-b2"), (0, ""):
        local.gpus_per_node = gpus
        ends = run(local, [work], 1, tmp_path, print, lambda work: None)
        ((ended, seconds),) = list(ends)
        assert ended is work and seconds is not None
        assert given["CUDA_VISIBLE_DEVICES"] == visible
