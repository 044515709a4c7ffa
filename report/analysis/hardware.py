"""Where a run computed: names from `environment.json`, and what a device has at best.

Two runs of one name may be each other's repeats: a machine's is not its host's, since
the nodes of one cluster are alike.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

SEVERAL = " and "  # between kinds of device
COMPUTES = {"torch": ("torch",), "jax": ("jax", "jaxlib")}


def device_name(environment: Mapping[str, Any]) -> str:
    """What a device is: "NVIDIA H100 1" and "NVIDIA H100 0" are the same.

    >>> device_name({"devices": ["A 0", "B 1", "A 2"], "processor": "C"})
    'A and B'
    """
    names = {re.sub(r"[ :]\d+$", "", str(name)) for name in environment["devices"]}
    kinds = {
        environment["processor"] if name.lower().startswith("cpu") else name
        for name in names
    }
    return SEVERAL.join(sorted(kinds)) or "unknown"


def machine_name(environment: Mapping[str, Any]) -> str:
    """What is around the devices, but for what their own name says."""
    device, gpus = device_name(environment), environment["gpus"]
    parts = [environment["processor"], f"{environment['cpu_count']} logical cores"]
    if gpus is not None:
        parts += sorted({str(gpu["name"]) for gpu in gpus["gpus"]})
        parts.append(f"NVIDIA driver {gpus['driver']}")
    return ", ".join(part for part in parts if part not in device)


def software_name(framework: str, environment: Mapping[str, Any]) -> str:
    """The versions of what computes: the framework's, and NVIDIA's where GPUs are."""
    names = list(COMPUTES.get(framework, (framework,)))
    packages = environment["packages"]
    if environment["gpus"] is not None:
        names += sorted(name for name in packages if name.startswith("nvidia-"))
    return ", ".join(f"{name} {packages[name]}" for name in names if packages.get(name))


def commit_name(environment: Mapping[str, Any], digits: int = 40) -> str:
    """The checkout that ran."""
    commit = environment["git_commit"]
    if commit is None:
        return "outside git"
    changed = ", with local changes" * bool(environment["git_dirty"])
    return f"{commit[:digits]}{changed}"


# FLOP/s of dense matrix products, by the device's name, from NVIDIA's data sheets: V100
# (2020), A100 (2021, Tensor Core figures), H100 (2023) and H200 (2024), NVL and SXM, of
# these half of what they say with sparsity. fp32 is that of CUDA cores, since fp32 here
# is never rounded to TF32.
_HOPPER = {"fp64": 67e12, "fp32": 67e12, "tf32": 494.7e12}
_HOPPER_NVL = {"fp64": 60e12, "fp32": 60e12, "tf32": 417.5e12}
PEAKS = {
    r"\bV100-SXM2": {"fp64": 7.8e12, "fp32": 15.7e12, "fp16": 125e12},
    r"\bV100-PCIE": {"fp64": 7e12, "fp32": 14e12, "fp16": 112e12},
    r"\bA100\b": {
        "fp64": 19.5e12,
        "fp32": 19.5e12,
        "tf32": 156e12,
        "bf16": 312e12,
        "fp16": 312e12,
    },
    r"\bH100 PCIe": {
        "fp64": 51e12,
        "fp32": 51e12,
        "tf32": 378e12,
        "bf16": 756e12,
        "fp16": 756e12,
    },
    r"\b(H100|H200) NVL\b": {**_HOPPER_NVL, "bf16": 835.5e12, "fp16": 835.5e12},
    r"\b(H100\b.*(HBM3|SXM)|H200\b|GH200\b)": {
        **_HOPPER,
        "bf16": 989.4e12,
        "fp16": 989.4e12,
    },
}


def peak_flops(device: str, precision: str) -> float | None:
    """Of one device in FLOP/s; None where no data sheet is known.

    >>> peak_flops("NVIDIA A100-SXM4-80GB", "bf16") / 1e12
    312.0
    """
    if "MIG" in device.split():  # a slice of a GPU, of which no data sheet tells
        return None
    for name, peaks in PEAKS.items():
        if re.search(name, device, re.IGNORECASE):
            return peaks.get(precision)
    return None


def flops_per_device(
    images_per_second: Float[np.ndarray, "..."], training_flops: int, world_size: int
) -> Float[np.ndarray, "..."]:
    """FLOP/s that the model's own products took of each device.

    Source: Chowdhery et al., PaLM (2022), appendix B: what the model needs, not what
    the hardware did. Its share of the peak is the model FLOPs utilisation, MFU.
    """
    return images_per_second * training_flops / world_size
