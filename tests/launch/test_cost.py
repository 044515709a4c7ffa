"""What a study costs, in devices and in the nodes that they are of."""

import pytest

from launch.cluster import Work
from launch.cost import at_most, likely
from recipe.cluster import ClusterConfig


@pytest.fixture
def work(tmp_path):
    def work(name: str, devices: int, tasks: int | None = None) -> Work:
        tasks = devices if tasks is None else tasks
        return Work(name, [], [], devices, tasks, log=tmp_path / name)

    return work


@pytest.fixture
def works(work):
    """A check of two devices in one task, and two cells on 1 and 16 devices each."""
    names = {"torch-1-fp32-dp": 1, "torch-16-fp32-dp": 16}
    cells = [work(f"{name}-{n}", size) for n in (1, 2) for name, size in names.items()]
    return [work("parity-fp32-dp", 2, tasks=1), *cells]


def test_whole_nodes_cost_more_than_the_devices_that_are_used(works):
    nodes = ClusterConfig(name="slurm", gpus_per_node=8)
    assert at_most(works, nodes) == (
        "at most 18.0 device-hours at work, 3.5 node-hours of whole nodes "
        "(cluster.exclusive=true), whose devices are 28.0 device-hours; "
        "cluster.minutes=30 each"
    )
    nodes.exclusive = False
    assert "18.0 device-hours, on nodes that others may share" in at_most(works, nodes)


def test_one_machine_takes_as_long_as_all_of_it_one_after_another(works):
    said = at_most(works, ClusterConfig(name="local", minutes=60))
    assert said == (
        "each is ended after cluster.minutes=60, so the upper limit, not the expected "
        "time, is 5 hours, one at a time (36.0 device-hours)"
    )


def test_what_is_left_takes_as_long_as_what_finished_of_its_point(works):
    local = ClusterConfig(name="local")
    for nothing in {}, {"parity-fp32-dp": 600.0}:
        assert likely(works, works, nothing, local) == ""
    seconds = {"torch-1-fp32-dp-1": 360.0, "torch-16-fp32-dp-1": 3600.0}
    missing = works[3:]  # of each point one has finished
    said = likely(missing, works, seconds, local)
    assert said.startswith("likely 1.1 hours, one at a time (16.1 device-hours)")
    assert likely([], works, seconds, local) == ""


def test_a_point_without_a_finished_cell_takes_what_as_many_devices_did(works, work):
    seconds = {"torch-1-fp32-dp-1": 360.0, "torch-16-fp32-dp-1": 3600.0}
    other = [work("jax-16-fp32-dp-1", 16)]
    said = likely(other, [*works, *other], seconds, ClusterConfig(name="local"))
    assert said.startswith("likely 1 hours, one at a time (16.0 device-hours)")
