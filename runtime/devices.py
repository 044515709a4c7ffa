"""Which of a node's accelerators a process takes, from its environment.

Processes of a node that see all of its accelerators take those at their local rank: so
it is under torchrun, and under srun unless GPUs are bound to tasks. A process that has
a mask of its own (`srun --gpus-per-task=1`, `--gpu-bind=single:1` or `map_gpu`,
`torchrun --virtual-local-rank`, a wrapper script) sees its own alone, and counts them
from 0 whatever its local rank.

Source: https://slurm.schedmd.com/gres.html, GPU Management; CUDA Programming Guide,
CUDA Environment Variables; jax#23452, jax#28194, jax#29669.
"""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

from recipe.errors import ConfigError
from runtime.processes import Processes

# Variables that hide accelerators: CUDA's, the containers', ROCm's, OpenCL's, Intel's.
MASKS = (
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"),
)
# Other variables that an error quotes, since they tell how GPUs were requested.
REQUESTS = (
    *("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK"),
    *("SLURMD_TRES_BIND", "SLURM_GPU_BIND", "SLURM_NTASKS_PER_GPU"),
    "SLURM_SHARDS_ON_NODE",
    *("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PIPE_DIRECTORY"),
)
# Several tasks to a GPU: SLURM's sharding and NVIDIA's MPS.
SHARED = (
    *("SLURM_SHARDS_ON_NODE", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
    "CUDA_MPS_PIPE_DIRECTORY",
)
# A device's number (of a part of it: 0.1, 0:1), or the UUID of a GPU or MIG instance.
DEVICE = re.compile(r"\d+([.:]\d+)?|(GPU|MIG)-\S+", re.IGNORECASE)
# What --gpu-bind is where it gives each task one GPU.
ONE_EACH = re.compile(r"\b(single|per_task):1\b|\b(map|mask)(_gpu)?:")


def listed(mask: str) -> list[str]:
    """The devices that a mask names.

    As in CUDA, the list ends at the first invalid entry.

    >>> listed("GPU-8932f937, MIG-b1e7,-1,2"), listed("NoDevFiles"), listed("")
    (['GPU-8932f937', 'MIG-b1e7'], [], [])
    """
    devices = []
    for entry in map(str.strip, mask.split(",")):
        if not DEVICE.fullmatch(entry):
            break
        devices.append(entry)
    return devices


def count_visible(
    environ: Mapping[str, str], gpus: Sequence[Sequence[str]] | None
) -> int | None:
    """How many GPUs a framework will see, without starting it.

    Args:
      environ: of the process.
      gpus: of the machine, as NVML lists them: for each the UUIDs of the GPU and of its
        MIG instances, of which CUDA shows a process one; None without NVML, as with
        ROCm or in some containers, and then masks count.

    Returns:
      None where nothing says.

    Source: CUDA Programming Guide, CUDA Environment Variables; NVIDIA Multi-Instance
    GPU User Guide, Device Enumeration; ROCm, GPU isolation techniques.

    >>> count_visible({"CUDA_VISIBLE_DEVICES": "GPU-8f"}, [["GPU-8f2a"], ["GPU-77bb"]])
    1
    """
    if gpus is None:
        masks = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
        given = [environ[name] for name in masks if name in environ]
        return len(listed(given[0])) if given else None
    if "CUDA_VISIBLE_DEVICES" not in environ:
        undivided = sum(len(uuids) == 1 for uuids in gpus)
        return undivided or min(len(gpus), 1)
    names = listed(environ["CUDA_VISIBLE_DEVICES"])
    if names and names[0].upper().startswith("MIG-"):
        return min(len(gpus), 1)
    known = []
    for name in names:
        found = (
            int(name) < len(gpus)
            if name.isdigit()
            else any(uuids[0].lower().startswith(name.lower()) for uuids in gpus)
        )
        if not found:
            break
        known.append(name)
    return len(known) if len(set(known)) == len(known) else 0  # CUDA: none, if repeated


def own_devices(
    environ: Mapping[str, str],
    present: int | None,
    processes: Processes,
    each: int,
    framework: str,
) -> list[int]:
    """This process's accelerators, by their indices among those that it sees.

    Args:
      environ: of the process.
      present: accelerators that it sees; None where that is unknown, and all of the
        node's are assumed.
      processes: its local rank, and how many are on its node.
      each: accelerators of each process.

    Raises:
      ConfigError: if they are too few, unless a mask of this process's own explains it.

    >>> task = {"SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "3"}
    >>> fourth = Processes("slurm", 3, 4, 3, local_count=4)
    >>> own_devices({}, 4, fourth, 1, "JAX"), own_devices(task, 1, fourth, 1, "JAX")
    ([3], [0])
    """
    local_rank = processes.local_rank
    count = max(processes.local_count, local_rank + 1)
    whose = _of_step(environ, present or 0)
    if present and whose < present and _bound(environ).endswith("none"):
        raise ConfigError(
            f"{framework} sees {present} accelerators, of which SLURM gave this step "
            f"{whose}, and with --gpu-bind=none nothing says which; leave that out, or "
            "take whole nodes (--exclusive), or set CUDA_VISIBLE_DEVICES"
        )
    if present is None or present >= count * each:
        return list(range(local_rank * each, (local_rank + 1) * each))
    if present == each and _has_own_mask(environ, count, each):
        return list(range(each))
    quoted = [f"{n}={environ[n]}" for n in (*MASKS, *REQUESTS) if n in environ]
    where = f" ({', '.join(quoted)})" if quoted else ""
    if not present:
        raise ConfigError(
            f"platform=gpu, but {framework} sees no accelerator{where}; use "
            "platform=cpu, or auto for what there is"
        )
    if count == 1:
        raise ConfigError(
            f"{each} accelerators are requested but {framework} sees {present}{where}; "
            f"use at most {present} on this node, or platform=cpu"
        )
    own, whole = "one" if each == 1 else f"{each}", count * each
    masked = ", ".join(quoted) or "no variable masks any"
    raise ConfigError(
        f"{framework} sees {present} accelerator(s) in local rank {local_rank} of "
        f"{count} on this node, which need {own} each and cannot share any; {masked}. "
        f"Show all {whole} to every process (srun --gpus-per-node={whole}, without "
        f"--gpu-bind; under torchrun unset the mask), or give each its own (srun "
        f"--gpus-per-task={each}), or start fewer processes, or use platform=cpu"
    )


def _has_own_mask(environ: Mapping[str, str], count: int, each: int) -> bool:
    """Whether what this process sees is masked for it alone.

    Else all of the node's processes see the same, and NCCL refuses two on one GPU.
    """
    if "TORCHELASTIC_RUN_ID" in environ:
        # All of its processes inherit torchrun's; another was set for this one alone.
        all_have = torchruns_environment()
        own = {name: environ[name] for name in MASKS if name in environ}
        return all_have is not None and any(
            len(listed(mask)) == each and mask != all_have.get(name)
            for name, mask in own.items()
        )
    if environ.get("SLURM_NTASKS_PER_GPU", "1") != "1":
        return False
    per_task = "gpu" in environ.get("SLURM_TRES_PER_TASK", "")
    if ONE_EACH.search(_bound(environ)) or per_task or "SLURM_GPUS_PER_TASK" in environ:
        return True
    if any(name in environ for name in SHARED):
        return False
    if _of_step(environ, count * each) < count * each:
        return False
    return any(len(listed(environ.get(name, ""))) == each for name in MASKS)


def torchruns_environment() -> Mapping[str, str] | None:
    """The variables that torchrun was started with, by Linux's /proc.

    It is the nearest ancestor without those that it sets: a wrapper script may be
    between.

    Returns:
      None where they cannot be read.
    """
    process = os.getppid()
    while process > 1:
        folder = Path("/proc", str(process))
        try:
            content = os.fsdecode((folder / "environ").read_bytes())
            status = (folder / "status").read_text()
        except OSError:
            return None
        variables = (entry.partition("=") for entry in content.split("\0"))
        environ = {name: value for name, _, value in variables}
        if "TORCHELASTIC_RUN_ID" not in environ:
            return environ
        process = int(status.partition("PPid:")[2].split()[0])
    return None


def _bound(environ: Mapping[str, str]) -> str:
    """How SLURM binds the step's GPUs to its tasks, by slurmd or as requested."""
    return environ.get("SLURMD_TRES_BIND") or environ.get("SLURM_GPU_BIND", "")


def _of_step(environ: Mapping[str, str], unknown: int) -> int:
    """GPUs that SLURM gave the step on this node."""
    given = environ.get("SLURM_GPUS_ON_NODE", "")
    return int(given) if given.isdigit() else unknown


def jax_finds_gpus(environ: Mapping[str, str]) -> bool:
    """Whether JAX has a plugin for some GPU, or is to use the CPU; JAX is not imported.

    Args:
      environ: of the process.
    """
    if environ.get("JAX_PLATFORMS") == "cpu":
        return True
    spec = find_spec("jax_plugins")
    places = spec.submodule_search_locations if spec else None
    modules = [found.name for found in iter_modules(places or [])]
    points = [point.value for point in entry_points(group="jax_plugins")]
    return any(re.search("cuda|rocm|oneapi", name) for name in [*modules, *points])
