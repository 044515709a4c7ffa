"""Where a run computed: names from `environment.json`, and what a device has at best.

Two runs of one name may be each other's repeats: a machine's is not its host's, since
the nodes of one cluster are alike.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from record.disk import read_text
from report.analysis.intervals import Estimate, through
from report.parity.devices import SEVERAL, device_name

COMPUTES = {"torch": ("torch",), "jax": ("jax", "jaxlib")}


def machine_name(environment: Mapping[str, Any]) -> str:
    """The machine around the devices, without what their own name says."""
    device, gpus = device_name(environment), environment["gpus"]
    parts = [environment["processor"], f"{environment['cpu_count']} logical cores"]
    if gpus is not None:
        parts += sorted({str(gpu["name"]) for gpu in gpus["gpus"]})
        parts.append(f"NVIDIA driver {gpus['driver']}")
    return ", ".join(part for part in parts if part not in device)


def software_name(framework: str, environment: Mapping[str, Any]) -> str:
    """Versions of the framework, and with GPUs of NVIDIA's libraries."""
    names = list(COMPUTES.get(framework, (framework,)))
    packages = environment["packages"]
    if environment["gpus"] is not None:
        names += sorted(name for name in packages if name.startswith("nvidia-"))
    return ", ".join(f"{name} {packages[name]}" for name in names if packages.get(name))


def commit_name(environment: Mapping[str, Any], digits: int = 40) -> str:
    """The commit that ran, and whether there were local changes."""
    commit = environment["git_commit"]
    if commit is None:
        return "outside git"
    changed = ", with local changes" * bool(environment["git_dirty"])
    return f"{commit[:digits]}{changed}"


@cache
def peaks() -> list[dict[str, Any]]:
    """The rows of `peaks.yaml`, each with its source."""
    return yaml.safe_load(read_text(Path(__file__).with_name("peaks.yaml")))


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s of one device at its peak; None if no data sheet is known.

    >>> peak_flops("NVIDIA A100-SXM4-80GB", "bf16") / 1e12
    312.0
    """
    if "MIG" in device.split():  # a slice of a GPU, of which no data sheet tells
        return None
    for row in peaks():
        if re.search(row["device"], device, re.IGNORECASE):
            return row["flops"].get(precision)
    return None


def flops_per_device(
    images_per_second: Float[np.ndarray, "..."], training_flops: int, world_size: int
) -> Float[np.ndarray, "..."]:
    """FLOP/s of each device that go into the model's own matrix products.

    Source: Chowdhery et al., PaLM (2022), appendix B: what the model needs, not what
    the hardware did. Its fraction of the peak is the model FLOPs utilisation, MFU.
    """
    return images_per_second * training_flops / world_size


@dataclass(frozen=True)
class Utilisation:
    """How much of a device a point's training uses.

    Args:
      flops: FLOP/s of one device.
      fraction: of the device's peak, None where that is not known.
      reason: why there is none.
    """

    flops: Estimate
    fraction: Estimate | None
    reason: str


def utilisation(
    images_per_second: Estimate,
    training_flops: int,
    world_size: int,
    device: str,
    precision: str,
    peak: float | None = None,
) -> Utilisation:
    """How much of each device a training uses.

    Args:
      images_per_second: over all devices.
      training_flops: of one example.
      peak: FLOP/s of one device; by default its data sheet's.
    """
    flops = through(
        images_per_second, lambda x: flops_per_device(x, training_flops, world_size)
    )
    if peak is None and SEVERAL not in device:
        peak = peak_flops(device, precision)
    if peak is None:
        reason = f"no peak is known for {device} in {precision}; give --peak-flops"
        return Utilisation(flops, None, reason)
    return Utilisation(flops, through(flops, lambda x: x / peak), "")
