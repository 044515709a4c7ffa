"""The NVIDIA GPUs of a machine, as `environment.json` keeps them; from NVML.

https://docs.nvidia.com/deploy/nvml-api: The driver includes the library, and its
bindings need no framework.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pynvml

from recipe.errors import ConfigError
from runtime.devices import count_visible

# How two GPUs are connected without NVLink, in nvidia-smi's abbreviations.
WAYS = {
    pynvml.NVML_TOPOLOGY_INTERNAL: "one board",
    pynvml.NVML_TOPOLOGY_SINGLE: "PIX",
    pynvml.NVML_TOPOLOGY_MULTIPLE: "PXB",
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: "PHB",
    pynvml.NVML_TOPOLOGY_NODE: "NODE",
    pynvml.NVML_TOPOLOGY_SYSTEM: "SYS",
}
NVLINK = "NVLink"
# What makes a framework find GPUs that the driver lists.
INSTALL = {
    "PyTorch": "install its wheel for a CUDA version that nvidia-smi says is supported",
    "JAX": "install JAX for them: make setup EXTRAS=dev,cuda",
}


def describe_gpus() -> dict[str, Any] | None:
    """Driver, every GPU and their links; None without a driver.

    All GPUs of the machine, whether a run uses them or not; a value that NVML does not
    give, as in a virtual machine, is None.
    """
    with _handles() as handles:
        if handles is None:
            return None
        return {
            "driver": _asked(pynvml.nvmlSystemGetDriverVersion),
            "gpus": [_gpu(handle) for handle in handles],
            "links": [[_link(a, b) for b in handles] for a in handles],
        }


def list_gpus() -> list[list[str]] | None:
    """UUIDs of each GPU of the machine and of its MIG instances; None without a driver.

    A job's control group may hide GPUs, which NVML then omits.
    """
    with _handles() as handles:
        if handles is None:
            return None
        return [[_uuid(gpu), *map(_uuid, _mig_instances(gpu))] for gpu in handles]


def check_gpus_used(
    framework: str, platform: str, able: bool, environ: Mapping[str, str]
) -> None:
    """Refuse to train on the CPU under `platform=auto` beside GPUs that nobody masked.

    After plain `make setup` PyTorch would take the GPU and JAX the CPU, since PyTorch's
    wheel includes CUDA and JAX's does not.

    Args:
      platform: of the config.
      able: whether the framework finds GPUs.
      environ: of the process.

    Raises:
      ConfigError: naming both ways out.
    """
    if platform != "auto" or able:
        return
    if gpus := count_visible(environ, list_gpus() or []):
        raise ConfigError(
            f"platform=auto: {framework} would train on the CPU, while NVIDIA's driver "
            f"lists {gpus} GPU(s); {INSTALL[framework]}, or choose platform=cpu"
        )


@contextmanager
def _handles() -> Iterator[list[Any] | None]:
    """NVML's handle of each GPU, valid inside; None without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        count = pynvml.nvmlDeviceGetCount()
        yield [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    finally:
        pynvml.nvmlShutdown()


def _mig_instances(gpu: Any) -> list[Any]:
    count = _asked(pynvml.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0
    ask = pynvml.nvmlDeviceGetMigDeviceHandleByIndex
    found = [_asked(ask, gpu, index) for index in range(count)]
    return [instance for instance in found if instance is not None]


def _uuid(handle: Any) -> str:
    return str(_asked(pynvml.nvmlDeviceGetUUID, handle) or "")


def _gpu(handle: Any) -> dict[str, Any]:
    milliwatts = _asked(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return {
        "name": _asked(pynvml.nvmlDeviceGetName, handle),
        "memory_bytes": None if memory is None else int(memory.total),
        "power_limit_watts": None if milliwatts is None else milliwatts / 1000,
        "max_sm_clock_mhz": _asked(
            pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM
        ),
    }


def _link(a: Any, b: Any) -> str | None:
    """How two GPUs of the machine are connected; None for a GPU and itself."""
    if a is b:
        return None
    peers = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
    if _asked(pynvml.nvmlDeviceGetP2PStatus, a, b, peers) == pynvml.NVML_P2P_STATUS_OK:
        return NVLINK
    level = _asked(pynvml.nvmlDeviceGetTopologyCommonAncestor, a, b)
    return WAYS.get(level, "unknown") if level is not None else "unknown"


def _asked(question: Callable[..., Any], *about: Any) -> Any:
    """A value from NVML, None where this device or driver has none."""
    try:
        return question(*about)
    except pynvml.NVMLError:
        return None
