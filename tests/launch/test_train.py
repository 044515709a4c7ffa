"""What a training process does before it imports a framework."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from launch.train import keep_to_cores
from recipe.errors import ConfigError
from runtime.processes import Processes

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="Linux pins cores, and two ranks need two",
)
HERE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@pytest.fixture
def kept(make_config, monkeypatch):
    """`kept(rank, "parallel.cores_per_device=1")`: cores and threads of two ranks."""

    def kept(rank, *overrides, launcher="torchrun"):
        monkeypatch.setenv("OMP_NUM_THREADS", "9")
        processes = Processes(launcher, rank, 2, local_rank=rank)

        def of_a_process():  # what is pinned is the thread that calls
            keep_to_cores(make_config(*overrides), processes)
            return sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"]

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(of_a_process).result()

    yield kept
    os.environ.pop("NPROC", None)


def test_each_rank_has_cores_of_its_own_and_as_many_threads(kept):
    key = "parallel.cores_per_device=1"
    assert [kept(rank, key) for rank in (0, 1)] == [([c], "1") for c in HERE[:2]]


def test_devices_of_one_process_have_theirs_together(kept):
    assert kept(0, "parallel.cores_per_device=1", "devices=4") == (HERE[:2], "2")


def test_without_the_key_all_stays_as_it_was_found(kept):
    assert kept(1) == (HERE, "9")


def test_what_srun_has_bound_stays(kept):
    assert kept(1, "parallel.cores_per_device=1", launcher="slurm") == (HERE, "1")


def test_more_cores_than_there_are_is_refused(kept):
    with pytest.raises(ConfigError, match=r"local rank 1, and it may use \d+; take"):
        kept(1, f"parallel.cores_per_device={len(HERE)}")
