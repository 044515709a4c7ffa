"""The machines for a study: this one, or the nodes of a SLURM partition."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.cluster import ClusterConfig
from recipe.errors import ConfigError
from runtime.devices import listed

CLIENTS = ("sbatch", "srun", "squeue", "sinfo")


def gpus_of(gres: str, kind: str | None = None) -> int:
    """GPUs of a node by its GRES, as `sinfo` and `scontrol` write it.

    Args:
      gres: `name[:type][:no_consume][:count][(sockets)]`, comma-separated.
      kind: the type to count; None counts all.

    Source: https://slurm.schedmd.com/slurm.conf.html, Gres.

    >>> gpus_of("gpu:a100-sxm4-80gb:4(S:0-1),gpu:1g.10gb:7,shard:16")
    11
    >>> gpus_of("gpu:a100-sxm4-80gb:4(S:0,1),gpu:1g.10gb:7", "1g.10gb")
    7
    >>> gpus_of("gpu"), gpus_of("(null)")
    (1, 0)
    """
    count = 0
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *fields = entry.strip().split(":")
        given = int(fields.pop()) if fields and fields[-1].isdigit() else 1
        types = [field for field in fields if field != "no_consume"]
        if name == "gpu" and kind in (None, *types):
            count += given
    return count


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """GPUs of this machine, or those in CUDA_VISIBLE_DEVICES.

    As in CUDA, the list ends at the first invalid entry.

    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,MIG-b1e7,-1,2"})
    ['GPU-8932f937', 'MIG-b1e7']
    """
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        found = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return [str(index) for index in range(found)]
    return listed(chosen)


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind in a partition.

    Args:
      cores: of each, as SLURM counts its CPUs.
      gpus: of each, of the requested type.
    """

    count: int
    cores: int
    gpus: int


def check_plan(cluster: ClusterConfig, world_sizes: list[int]) -> None:
    """Refuse what is impossible with these settings on any machine.

    Raises:
      ConfigError: saying what is possible.
    """
    per_node, largest = cluster.devices_per_node, max(world_sizes)
    if cluster.name == "local":
        if cluster.gpus_per_node and largest > cluster.gpus_per_node:
            raise ConfigError(
                f"study.world_size={largest} needs {largest} GPUs, and "
                f"cluster.gpus_per_node={cluster.gpus_per_node}; take smaller world "
                "sizes, or cluster=slurm for several nodes"
            )
        return
    for size in world_sizes:
        if size > per_node and size % per_node:
            raise ConfigError(
                f"study.world_size={size} does not fill whole nodes of {per_node} "
                "devices; "
                f"use 1 to {per_node}, or multiples of {per_node}"
            )


def check_machine(
    cluster: ClusterConfig, world_sizes: list[int], share: bool = False
) -> int:
    """Refuse what this machine, or its cluster, does not have.

    Args:
      share: whether processes may share cores where there are too few.

    Returns:
      Cores of each device, the same at every world size, so that a scaling curve varies
      the number of devices alone.

    Raises:
      ConfigError: saying what it has.
    """
    if cluster.name == "local":
        return _check_local(cluster, max(world_sizes), share)
    return _check_slurm(cluster, world_sizes)


def own_cores() -> int:
    """Cores of this machine that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_local(cluster: ClusterConfig, largest: int, share: bool) -> int:
    visible, cores = visible_gpus(os.environ), own_cores()
    gpus = len(visible)
    if cluster.gpus_per_node > gpus:
        raise ConfigError(
            f"cluster.gpus_per_node={cluster.gpus_per_node}, but this machine has "
            f"{gpus}; use at most that many, 0 for CPUs"
        )
    mig = any(name.upper().startswith("MIG-") for name in visible)
    if mig and cluster.gpus_per_node and largest > 1:
        raise ConfigError(
            f"study.world_size={largest} on the MIG instances of CUDA_VISIBLE_DEVICES: "
            "CUDA shows a process one of them; use study.world_size=[1], or whole GPUs"
        )
    each = cluster.cores_per_device
    if each is None:
        each = max(1, cores // (gpus if cluster.gpus_per_node else largest))
    if largest * each > cores and not (share and each <= cores):
        way_out = f"set cluster.cores_per_device to {cores} at most"
        if each <= cores:
            fits = ",".join(map(str, sorted({1, cores // each})))
            way_out = f"take world sizes that fit, such as study.world_size=[{fits}]"
        raise ConfigError(
            f"study.world_size={largest} with {each} core(s) "
            f"for each device needs {largest * each} cores, and this machine has "
            f"{cores}; {way_out}"
        )
    return each


def _check_slurm(cluster: ClusterConfig, world_sizes: list[int]) -> int:
    name, kinds = _partition(cluster)
    wanted, per_node = cluster.gpus_per_node, cluster.devices_per_node
    most = max(kind.gpus for kind in kinds)
    if wanted > most:
        of = f" of type {cluster.gpu_type}" if cluster.gpu_type else ""
        raise ConfigError(
            f"cluster.gpus_per_node={wanted}, but a node of partition {name} has "
            f"{most}{of}; use at most that many"
        )
    kinds = [kind for kind in kinds if kind.gpus >= wanted]
    each = cluster.cores_per_device
    if each is None:
        shares = [kind.cores // kind.gpus if wanted else 1 for kind in kinds]
        each = max(1, min(shares))
    cores = max(kind.cores for kind in kinds)
    if per_node * each > cores:
        raise ConfigError(
            f"{per_node} tasks of {each} core(s) need more than the {cores} cores of "
            f"a node of partition {name}; change cluster.tasks_per_node or "
            "cluster.cores_per_device"
        )
    nodes = sum(kind.count for kind in kinds if kind.cores >= per_node * each)
    if (largest := max(world_sizes)) > per_node * nodes:
        raise ConfigError(
            f"study.world_size={largest} takes {cluster.nodes(largest)} nodes of "
            f"{per_node} devices, more than the {nodes} of partition {name}; use at "
            f"most {per_node * nodes}"
        )
    return each


def _partition(cluster: ClusterConfig) -> tuple[str, list[Nodes]]:
    """The partition of jobs, and its kinds of nodes."""
    missing = [name for name in CLIENTS if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"cluster=slurm needs {', '.join(missing)}, not found on this machine; "
            "start the study on the cluster's login node, or use cluster=local"
        )
    listed = subprocess.run(
        ["sinfo", "-h", "-e", "-o", "%R|%P|%D|%c|%G"], capture_output=True, text=True
    )
    if listed.returncode:
        message = listed.stderr.strip().partition("\n")[0] or "nothing"
        raise ConfigError(
            f"cluster=slurm: sinfo fails and says {message}; start the study on the "
            "cluster's login node, or set SLURM_CONF to its slurm.conf; dry_run=true "
            "needs neither"
        )
    rows = [line.split("|") for line in listed.stdout.splitlines()]
    default = next((row[0] for row in rows if row[1].endswith("*")), None)
    name = cluster.partition or default
    kinds = [
        Nodes(int(count), int(cores.rstrip("+")), gpus_of(gres, cluster.gpu_type))
        for partition, _, count, cores, gres in rows
        if partition == name
    ]
    if name is None or not kinds:
        raise ConfigError(
            f"cluster.partition={cluster.partition} does not exist; one of: "
            f"{', '.join(sorted({row[0] for row in rows}))}"
        )
    return name, kinds
