"""Where runs happened, as the page tells it."""

import copy

from record.environment import describe_environment
from report.analysis.findings import make_report
from report.page.environment import environment_rows
from tests.report.gpus import NVIDIA


def rows(timed_run, gpus):
    """Of two runs on one machine, by name."""
    environment = describe_environment("torch", ["a device"]) | {"gpus": gpus}
    environment["packages"]["nvidia-nccl-cu13"] = "2.30.7"
    runs = [
        timed_run(rate, environment=copy.deepcopy(environment)) for rate in (1.0, 2.0)
    ]
    return dict(environment_rows(make_report(runs)))


def test_gpus_are_told_with_power_cap_clock_driver_and_links(timed_run):
    told = rows(timed_run, NVIDIA)
    assert told["GPUs of the machine"] == [
        "2 × NVIDIA H100 80GB HBM3, 80 GiB, power cap 700 W, SM clock up to 1,980 MHz; "
        "1 × NVIDIA H100 80GB HBM3, 80 GiB, SM clock up to 1,980 MHz"
    ]
    assert told["GPUs joined by"] == ["SYS (2 pairs), NVLink (1 pair)"]
    assert told["NVIDIA driver"] == ["580.65.06"]
    assert told["nvidia-nccl-cu13"] == ["2.30.7"]


def test_what_each_framework_was_set_to_stands_side_by_side(timed_run):
    of = {
        "torch": {"memory_format": "channels_last", "tf32": None, "autotuning": True},
        "jax": {"memory_format": "NHWC", "preallocation": False},
    }
    runs = [
        timed_run(1.0, environment=describe_environment(framework, [], settings))
        for framework, settings in of.items()
    ]
    told = dict(environment_rows(make_report(runs)))
    assert told["PyTorch's settings"] == [
        "memory_format channels_last, autotuning on (1 run)"
    ]
    assert told["JAX's settings"] == ["memory_format NHWC, preallocation off (1 run)"]


def test_a_machine_without_gpus_is_told_nothing_of_them(timed_run):
    assert not [name for name in rows(timed_run, None) if "GPU" in name or "nv" in name]
