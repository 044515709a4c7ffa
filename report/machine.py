"""What `environment.json` says of where a run computed and by what, as names.

Two runs of one name may be each other's repeats: a machine's is not its host's, since
the nodes of one cluster are alike.
"""

import re
from collections.abc import Mapping
from typing import Any

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
