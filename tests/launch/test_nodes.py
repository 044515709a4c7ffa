"""What a machine or a partition has, however it is written."""

import pytest

from launch import nodes
from launch.nodes import check_machine, check_plan, gpus_of, visible_gpus
from recipe.cluster import ClusterConfig
from recipe.errors import ConfigError

GRES = {
    "gpu:4": 4,
    "gpu": 1,
    "(null)": 0,
    "gpu:a100-sxm4-80gb:4": 4,
    "gpu:nvidia_a100-40:4": 4,
    "gpu:1g.10gb:7": 7,
    "gpu:a100:4(S:0-1)": 4,
    "gpu:a100:2(S:0,1),gpu:v100:3(S:1)": 5,
    "gpu:h100:4,shard:16": 4,
    "gpu:h100:no_consume:4": 4,
    "nic:2,gpu:h100": 1,
    "shard:gpu:16": 0,
}


@pytest.mark.parametrize("gres", GRES)
def test_gpus_are_counted_whatever_their_type_is_called(gres):
    assert gpus_of(gres) == GRES[gres]


def test_of_several_types_the_one_that_is_asked_for_is_counted():
    gres = "gpu:a100-sxm4-80gb:4(S:0-1),gpu:1g.10gb:7,shard:16"
    assert gpus_of(gres, "1g.10gb") == 7
    assert gpus_of(gres, "a100-sxm4-80gb") == 4
    assert gpus_of(gres, "a100") == gpus_of(gres, "no_consume") == 0


GPU, MIG = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-b1e7-a1"
OLD_MIG = f"MIG-{GPU}/1/0"
VISIBLE = {
    "": [],
    "NoDevFiles": [],
    "0,2": ["0", "2"],
    " 1 , 0": ["1", "0"],
    "0,-1,1": ["0"],
    f"{GPU},{MIG}": [GPU, MIG],
    OLD_MIG: [OLD_MIG],
}


@pytest.mark.parametrize("value", VISIBLE)
def test_cuda_visible_devices_is_read_as_cuda_does(value):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == VISIBLE[value]


@pytest.fixture
def machine(monkeypatch):
    """`machine(cores=16, gpus=8)`: what this machine is said to have."""

    def machine(cores: int, gpus: int) -> None:
        monkeypatch.setattr(nodes, "own_cores", lambda: cores)
        devices = ",".join(f"GPU-{n}" for n in range(gpus))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)

    return machine


def test_a_device_has_the_cores_of_this_machine_over_its_gpus(machine):
    machine(cores=64, gpus=8)
    local = ClusterConfig(name="local", gpus_per_node=2)
    assert check_machine(local, [1, 2]) == 8
    assert check_machine(ClusterConfig(name="local"), [1, 2]) == 32
    local.cores_per_device = 5
    assert check_machine(local, [1, 2]) == 5


NOT_HERE = {
    "cores": ({"cores_per_device": 4}, [1, 8], ("32 cores", "study.world_size=[1,4]")),
    "cores of two": ({"cores_per_device": 9}, [1, 2], ("18 cores", "world_size=[1]")),
    "cores of one": ({"cores_per_device": 17}, [1], ("cores_per_device to 16 at",)),
    "GPUs": ({"gpus_per_node": 64}, [1], ("this machine has 2",)),
}


@pytest.mark.parametrize("what", NOT_HERE)
def test_what_this_machine_has_not_is_refused(what, machine):
    machine(cores=16, gpus=2)
    keys, world_sizes, words = NOT_HERE[what]
    check_machine(ClusterConfig(name="local"), [1])
    with pytest.raises(ConfigError) as refused:
        check_machine(ClusterConfig(name="local", **keys), world_sizes)
    for word in words:
        assert word in str(refused.value)


def test_mig_instances_of_this_machine_train_one_at_a_time(machine, monkeypatch):
    machine(cores=16, gpus=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{MIG},MIG-77bb")
    one = ClusterConfig(name="local", gpus_per_node=1)
    assert check_machine(one, [1]) == 8
    with pytest.raises(ConfigError, match=r"world_size=2 on the MIG.*world_size=\[1\]"):
        check_machine(ClusterConfig(name="local", gpus_per_node=2), [1, 2])


def test_a_plan_that_no_machine_could_run_is_refused_without_one():
    slurm = ClusterConfig(name="slurm", gpus_per_node=4)
    check_plan(slurm, [1, 3, 4, 8])
    with pytest.raises(
        ConfigError, match="world_size=6 does not fill whole nodes of 4"
    ):
        check_plan(slurm, [1, 6])
    with pytest.raises(ConfigError, match="world_size=4 needs 4 GPUs"):
        check_plan(ClusterConfig(name="local", gpus_per_node=2), [1, 4])


@pytest.fixture
def partition(tmp_path, monkeypatch):
    """`partition("16|64|gpu:a100:4(S:0-1)")`: what sinfo says of one named gpu."""

    def partition(*kinds: str) -> None:
        lines = "\n".join(["cpu|cpu*|2|8|(null)", *(f"gpu|gpu|{k}" for k in kinds)])
        for name in nodes.CLIENTS:
            file = tmp_path / name
            file.write_text(f"#!/bin/sh\n/bin/cat <<'.'\n{lines}\n.\n")
            file.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return partition


def asking(**keys) -> ClusterConfig:
    return ClusterConfig(name="slurm", partition="gpu", **keys)


def test_a_device_has_the_cores_of_a_node_over_its_gpus(partition):
    partition("16|64|gpu:a100:4(S:0-1)", "2|96|gpu:nvidia_h100-80:8,shard:16")
    assert check_machine(asking(gpus_per_node=2), [1, 2]) == 12
    assert check_machine(asking(gpus_per_node=4, gpu_type="a100"), [1, 4]) == 16
    assert check_machine(asking(gpus_per_node=8), [8]) == 12
    assert check_machine(asking(gpus_per_node=8, cores_per_device=3), [8]) == 3
    assert check_machine(ClusterConfig(name="slurm"), [1, 2]) == 1  # the cpu partition


LACKS = {
    "has 4 of type a100": ({"gpus_per_node": 8, "gpu_type": "a100"}, [8]),
    "more than the 2 of partition gpu": ({"gpus_per_node": 8}, [8, 24]),
    "16 core.s. need more than the 96 cores": (
        {"gpus_per_node": 8, "cores_per_device": 16},
        [8],
    ),
}


@pytest.mark.parametrize("words", LACKS)
def test_what_a_partition_lacks_is_refused_by_the_nodes_that_would_do(partition, words):
    partition("16|64|gpu:a100:4(S:0-1)", "2|96|gpu:nvidia_h100-80:8,shard:16")
    keys, world_sizes = LACKS[words]
    with pytest.raises(ConfigError, match=words):
        check_machine(asking(**keys), world_sizes)
