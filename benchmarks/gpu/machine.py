"""Parts of `make gpu` about the machine: devices, groups, masks, heartbeat, tests."""

import os
import platform
from functools import partial
from importlib.metadata import distributions
from importlib.util import find_spec
from typing import Any

from benchmarks.gpu.checks import (
    FRAMEWORKS,
    REFUSED,
    Checks,
    Failed,
    Omitted,
    products,
    torchrun,
    twin_arguments,
)
from benchmarks.gpu.waiting import TIMEOUT_SECONDS
from launch.children import ROOT
from record.environment import describe_environment
from record.gpus import list_gpus

HELD_SECONDS = 3 * TIMEOUT_SECONDS
MARK = "mark.gpu"
SMALL = ("experiment=digits_mlp", "data=synthetic", "train.steps=4")


def start(checks: Checks) -> None:
    """Versions and devices, and products and a convolution with gradients."""
    checks.check("machine", _machine)
    for framework in FRAMEWORKS:
        checks.check(framework, partial(products, checks, framework, "fp32"))


def _machine() -> dict[str, Any]:
    said = describe_environment("none", [])
    names = ("processor", "cores", "memory_bytes", "platform", "gpus", "git_commit")
    packages = {k: v for k, v in said["packages"].items() if v is not None}
    for found in distributions():  # NVIDIA's have another name for each CUDA
        if found.name.startswith(("nvidia-", "jax-cuda")):
            packages[found.name] = found.version
    rest = {name: said[name] for name in names}
    return {"python": platform.python_version(), "packages": packages, **rest}


def group(checks: Checks) -> None:
    """A group of one process, the twins under torchrun, and masked GPUs."""
    for framework in FRAMEWORKS:
        names = f"{framework}: a group of one process", f"{framework}: under torchrun"
        checks.check(names[0], partial(_collective, checks, framework))
        checks.check(names[1], partial(_torchrun, checks, framework))
        for how in ("index", "UUID"):
            masked = partial(_masked, checks, framework, how)
            checks.check(f"{framework}: masked by {how}", masked)
        refused = partial(_all_masked, checks, framework)
        checks.check(f"{framework}: all masked is refused", refused)


def _collective(checks: Checks, framework: str) -> dict[str, Any]:
    probe = f"benchmarks.gpu.{framework}_probe"
    said = checks.ask([*torchrun(1), "-m", probe, "group", checks.platform, ""])
    if said["sum"] != [0, 1, 2, 3]:
        raise Failed("the sum over one rank is not its own part", **said)
    return said


def _torchrun(checks: Checks, framework: str) -> dict[str, Any]:
    folder = checks.folder / f"torchrun-{framework}"
    checks.train(framework, folder, *SMALL, launcher=torchrun(1))
    return {}


def _masked(checks: Checks, framework: str, how: str) -> dict[str, Any]:
    checks.needs_gpu("a mask has to leave a GPU")
    mask, folder = _mask(how), checks.folder / f"{how}-{framework}"
    checks.train(framework, folder, *SMALL, CUDA_VISIBLE_DEVICES=mask)
    return {"CUDA_VISIBLE_DEVICES": mask}


def _mask(how: str) -> str:
    """The first GPU that this process may use, by its index or its UUID."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    if how == "index" or not first.isdigit():
        if how == "index" and not first.isdigit():
            raise Omitted(f"CUDA_VISIBLE_DEVICES={first} is given, which has no index")
        return first
    gpus = list_gpus()
    if gpus is None:
        raise Failed("NVML, which knows the UUIDs, is not there")
    return gpus[int(first)][0]


def _all_masked(checks: Checks, framework: str) -> dict[str, Any]:
    folder = checks.folder / f"empty-{framework}"
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": None}
    given = twin_arguments(framework, "gpu", folder, SMALL)
    said = checks.run(given, REFUSED, hidden)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if len(lines) != 1 or "platform" not in lines[0]:
        raise Failed("no single error names platform", said=lines)
    return {"error": lines[0]}


def heartbeat(checks: Checks) -> None:
    """A rank that waits long for its device does not count as lost."""
    for framework in FRAMEWORKS:
        checks.check(framework, partial(_waits, checks, framework))


def _waits(checks: Checks, framework: str) -> dict[str, Any]:
    checks.folder.mkdir(exist_ok=True)
    file = checks.folder / f"{framework}.json"
    probe = ["-m", "benchmarks.gpu.waiting", framework, checks.platform]
    said = checks.ask([*torchrun(2), *probe, str(HELD_SECONDS), str(file)])
    said["timeout_seconds"] = TIMEOUT_SECONDS
    if said["held_seconds"] <= TIMEOUT_SECONDS:
        raise Failed("it did not wait longer than the time-out", **said)
    return said


def tests(checks: Checks) -> None:
    """The tests that are marked `gpu`."""
    checks.check("pytest -m gpu", partial(_tests, checks))


def _tests(checks: Checks) -> dict[str, Any]:
    if find_spec("pytest") is None:
        raise Omitted("pytest is not installed")
    # Their files alone, since others may import what is not installed.
    files = [f for f in (ROOT / "tests").rglob("test_*.py") if MARK in f.read_text()]
    typed = ["-m", "pytest", "-q", "-m", "gpu", *map(str, sorted(files))]
    said = checks.run([*typed, *(["--collect-only"] if checks.rehearsal else [])])
    last = said.strip().splitlines()[-1]
    checks.needs_gpu(f"only collected: {last}")
    return {"said": last}
