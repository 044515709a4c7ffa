"""Runs are alike on machines that are alike, whatever these are called."""

import pytest

from record.environment import describe_environment
from report.analysis.hardware import (
    commit_name,
    device_name,
    machine_name,
    software_name,
)
from tests.report.gpus import NVIDIA


@pytest.fixture
def environment():
    here = describe_environment("torch", ["cpu"])
    packages = {"torch": "2", "jax": "3", "jaxlib": "4", "nvidia-nccl-cu13": "5"}
    own = {"processor": "A CPU", "cpu_count": 8, "gpus": None, "packages": packages}
    return here | own


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ({"host": "another"}, True),
        ({"memory_bytes": 1}, True),
        ({"cpu_count": 128}, False),
        ({"devices": ["A GPU 0"], "processor": "Another CPU"}, False),
        ({"gpus": NVIDIA}, False),
    ],
)
def test_nodes_of_one_cluster_are_one_machine(environment, other, alike):
    assert (machine_name(environment) == machine_name(environment | other)) == alike


def test_a_machine_is_told_by_what_its_devices_name_does_not_say(environment):
    assert machine_name(environment) == "8 logical cores"
    gpu = environment | {"devices": ["NVIDIA H100 80GB HBM3 0"], "gpus": NVIDIA}
    told = "A CPU, 8 logical cores, NVIDIA driver 580.65.06"
    assert machine_name(gpu) == told
    another = gpu | {"devices": ["NVIDIA T4 0"]}
    assert "NVIDIA H100" in machine_name(another)


def test_software_is_the_frameworks_and_nvidias_where_gpus_are(environment):
    assert software_name("torch", environment) == "torch 2"
    assert software_name("jax", environment) == "jax 3, jaxlib 4"
    gpu = environment | {"gpus": NVIDIA}
    assert software_name("torch", gpu) == "torch 2, nvidia-nccl-cu13 5"


def test_every_kind_of_device_is_named(environment):
    mixed = environment | {"devices": ["H100 0", "A100 1", "H100 2"]}
    assert device_name(mixed) == "A100 and H100"


def test_a_changed_checkout_is_no_commit(environment):
    clean, changed = (
        commit_name(environment | {"git_commit": "c0ffee", "git_dirty": dirty}, 4)
        for dirty in (False, True)
    )
    assert (clean, changed) == ("c0ff", "c0ff, with local changes")
