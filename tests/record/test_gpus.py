"""What NVML tells of a machine's GPUs; it has none here, so its answers are given."""

from types import SimpleNamespace

import pynvml
import pytest

from recipe.errors import ConfigError
from record.gpus import INSTALL, check_gpus_used, describe_gpus, list_gpus

NAME = "NVIDIA H100 80GB HBM3"


def refused(*_):
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


@pytest.fixture
def nvml(monkeypatch):
    """Two GPUs joined by NVLink, a third on another socket, with fewer values."""
    nvlinked = {0, 1}

    def peers(a, b, index):
        assert index == pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        return 0 if {a, b} == nvlinked else pynvml.NVML_P2P_STATUS_NOT_SUPPORTED

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.65.06",
        "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: NAME,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80 * 2**30),
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: (
            refused() if handle == 2 else 700_000
        ),
        "nvmlDeviceGetMaxClockInfo": lambda handle, clock: 1980,
        "nvmlDeviceGetP2PStatus": peers,
        "nvmlDeviceGetTopologyCommonAncestor": lambda a, b: pynvml.NVML_TOPOLOGY_SYSTEM,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetMaxMigDeviceCount": lambda handle: (
            7 if handle == 2 else refused()
        ),
        "nvmlDeviceGetMigDeviceHandleByIndex": lambda handle, index: (
            f"2 {index}" if index < 2 else refused()
        ),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)


def test_power_caps_and_clocks_are_in_watts_and_megahertz(nvml):
    first, _, last = describe_gpus()["gpus"]
    assert first == {
        "name": NAME,
        "memory_bytes": 80 * 2**30,
        "power_limit_watts": 700.0,
        "max_sm_clock_mhz": 1980,
    }
    assert last == first | {"power_limit_watts": None}  # a missing value is not zero


def test_the_link_of_each_pair_of_gpus_is_recorded(nvml):
    assert describe_gpus()["links"] == [
        [None, "NVLink", "SYS"],
        ["NVLink", None, "SYS"],
        ["SYS", "SYS", None],
    ]


def test_without_nvidias_driver_there_is_nothing_to_tell(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", refused)
    assert describe_gpus() is None and list_gpus() is None
    check_gpus_used("JAX", "auto", False, {})


def test_a_gpu_is_listed_with_its_mig_instances(nvml):
    assert list_gpus() == [["GPU-0"], ["GPU-1"], ["GPU-2", "GPU-2 0", "GPU-2 1"]]


@pytest.mark.parametrize("framework, way", INSTALL.items())
def test_the_cpu_is_refused_beside_gpus_that_nobody_masked(nvml, framework, way):
    said = "^platform=auto: .*lists 2 GPU.*platform=cpu$"
    with pytest.raises(ConfigError, match=said) as refusal:
        check_gpus_used(framework, "auto", False, {})
    assert framework in str(refusal.value) and way in str(refusal.value)
    with pytest.raises(ConfigError, match="lists 1 GPU"):
        check_gpus_used(framework, "auto", False, {"CUDA_VISIBLE_DEVICES": "1"})
    check_gpus_used(framework, "auto", True, {})
    check_gpus_used(framework, "cpu", False, {})
    check_gpus_used(framework, "auto", False, {"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.gpu
def test_the_driver_tells_of_this_machines_gpus():
    described = describe_gpus()
    assert described["driver"] and len(described["gpus"]) == len(described["links"])
    assert all("NVIDIA" in gpu["name"] for gpu in described["gpus"])
    assert all(gpu["max_sm_clock_mhz"] > 100 for gpu in described["gpus"])
