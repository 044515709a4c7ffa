"""Where a run ran, as `environment.json` keeps it."""

import contextlib
import os
import platform
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from record.gpus import describe_gpus

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("flax", "jax", "jaxlib", "numpy", "optax", "tensorboard", "torch"),
    *("torchvision", "wandb"),
    *("nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"),
)
# Variables that choose the network of collectives.
NETWORK = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_NET")


def describe_environment(
    framework: str, devices: list[str], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Versions, devices, host, commit and command, without importing a framework.

    Args:
      settings: what the twin set of its framework, by name.
    """
    commit, dirty = git_state()
    return {
        "framework": framework,
        "devices": devices,
        "framework_settings": dict(settings or {}),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": psutil.cpu_count(),
        "cores": own_cores(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": describe_gpus(),
        "network_settings": {name: os.environ.get(name) for name in NETWORK},
        "host": socket.gethostname(),
        "git_commit": commit,
        "git_dirty": dirty,
        "command": psutil.Process().cmdline(),
    }


def own_cores() -> list[int] | None:
    """Logical cores that this process may use; None where the platform cannot tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return None


def process_age_seconds() -> float:
    """Seconds since this process was started, imports included."""
    return time.time() - psutil.Process().create_time()


def peak_resident_bytes() -> int:
    """This process's peak resident memory.

    On Linux from /proc: getrusage's starts at the peak of the parent process.
    """
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE):
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def git_state() -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether tracked files had changes; None outside."""
    commit = _git("rev-parse", "HEAD")
    return commit, None if commit is None else _git_dirty()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Git's output for the checkout, or None without git or a checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_dirty() -> bool:
    return bool(_git("status", "--porcelain", "--untracked-files=no"))


def _processor() -> str:
    """The processor's name: from /proc on Linux, else from `platform`."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
