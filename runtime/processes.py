"""Which process of a run this is, from its launcher: torchrun, srun or Python."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from recipe.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """One process's place among the processes of its run.

    Args:
      launcher: "python" (one process), "torchrun" or "slurm".
      rank: this process, from 0, over all nodes.
      count: processes of the run.
      local_rank: this process, from 0, on its node.
      coordinator: "host:port" where rank 0 listens; empty for one process.
      launch: an id that only the processes of one launch share, the same after torchrun
        has restarted them; empty if nothing restarts them.
      restart: how often it has restarted them.
      restarts: whether it will, whatever a process's exit status.
      local_count: processes on this node, or 1 where that is unknown.
    """

    launcher: str = "python"
    rank: int = 0
    count: int = 1
    local_rank: int = 0
    coordinator: str = ""
    launch: str = ""
    restart: int = 0
    restarts: bool = False
    local_count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ConfigError(
                f"rank {self.rank} of {self.count} processes as {self.launcher} says; "
                f"ranks go from 0 to {self.count - 1}"
            )

    @property
    def one_node(self) -> bool:
        """Whether all of the run's processes are on one node, and meet on loopback."""
        return self.coordinator.startswith("127.")


TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# Launchers that are not supported, by their variables for world size and rank.
OTHERS = {
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK"),
    "MVAPICH": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    "Kubeflow's JAXJob": ("NUM_PROCESSES", "PROCESS_ID"),
}


def from_environment(environ: Mapping[str, str]) -> Processes:
    """From torchrun's variables if all are set, else a SLURM step's, else one process.

    Inside a batch script but outside `srun` SLURM also sets `SLURM_NTASKS`, although
    one process runs: only a step's own variables (`SLURM_STEP_*`) count. A step of one
    task is one process.

    Raises:
      ConfigError: if only some of a launcher's variables are set, if two launchers
        contradict each other, or if the launcher is not supported.
    """
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "TORCHELASTIC_RUN_ID" in environ:
        return _from_torchrun(environ)
    if all(map(environ.get, TORCHRUN)):
        # As many ranks as the step has tasks: of these, then, and not of processes that
        # each task starts. A job script exports one rank for all.
        if tasks != "1" and environ["WORLD_SIZE"] == tasks:
            _check_exported(environ)
        return _from_torchrun(environ)
    _refuse_others(environ)
    if tasks != "1":
        _check_exported(environ)
        return _from_slurm(environ)
    alone = environ.get("WORLD_SIZE") or "1", environ.get("RANK") or "0"
    if alone != ("1", "0"):
        given = " and ".join(f"{n}={environ[n]}" for n in TORCHRUN[:2] if n in environ)
        absent = [n for n in TORCHRUN if not environ.get(n)]
        missing = f"{', '.join(absent)} {'are' if len(absent) > 1 else 'is'} not set"
        raise ConfigError(
            f"{given} in the environment, as torchrun, a job script or Kubeflow's "
            f"PyTorchJob sets it, but {missing}; start every process with "
            "torchrun, which takes Kubeflow's PET_* itself, or with srun, or unset "
            "RANK and WORLD_SIZE for one process"
        )
    return Processes()


def _refuse_others(environ: Mapping[str, str]) -> None:
    """Refuse other launchers: each of their ranks would silently train alone.

    srun also sets PMI's variables; they then agree with its own.
    """
    step = environ.get("SLURM_STEP_NUM_TASKS"), environ.get("SLURM_PROCID")
    for launcher, (size, rank) in OTHERS.items():
        found = environ.get(size), environ.get(rank)
        if all(found) and found[0] != "1" and found != step:
            raise ConfigError(
                f"started by {launcher} as {rank}={found[1]} of {size}={found[0]}, "
                "which is not supported; start with torchrun "
                "--nproc-per-node=DEVICES on each node, or with srun, or unset "
                f"{size} and {rank} for one process"
            )


def _check_exported(environ: Mapping[str, str]) -> None:
    """Refuse torchrun variables exported by a job script that contradict srun."""
    of_step = {"WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "RANK": "SLURM_PROCID"}
    for name, own in of_step.items():
        if environ.get(name) and environ[name] != environ.get(own):
            raise ConfigError(
                f"{name}={environ[name]} in the environment, but srun says "
                f"{own}={environ.get(own)}; `unset {name}` in the job script: srun's "
                "tasks need none of torchrun's variables"
            )


def _from_torchrun(environ: Mapping[str, str]) -> Processes:
    _require(environ, "torchrun", *TORCHRUN)
    one_node = environ.get("LOCAL_WORLD_SIZE") == environ["WORLD_SIZE"]
    host = "127.0.0.1" if one_node else environ["MASTER_ADDR"]
    # torchrun's own store may listen on MASTER_PORT, so JAX's coordinator takes another
    # that every rank can compute, and that is not still in use after a restart.
    run = [environ.get("TORCHELASTIC_" + k, "") for k in ("RUN_ID", "RESTART_COUNT")]
    digest = hashlib.sha256(repr([environ["MASTER_PORT"], *run]).encode()).digest()
    # "none" is torchrun's default id; on one node ranks share torchrun as their parent.
    named = run[0] not in ("", "none")
    launch = [*run[:1], *([] if named or not one_node else [str(os.getppid())])]
    return Processes(
        launcher="torchrun",
        rank=_number(environ, "RANK"),
        count=_number(environ, "WORLD_SIZE"),
        local_rank=_torchruns_local_rank(environ),
        coordinator=f"{host}:{port(int.from_bytes(digest[:4]))}",
        launch=hashlib.sha256(repr(launch).encode()).hexdigest()[:8],
        restart=_number(environ, "TORCHELASTIC_RESTART_COUNT") if run[1] else 0,
        restarts=environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0",
        local_count=_local_count(environ),
    )


def _torchruns_local_rank(environ: Mapping[str, str]) -> int:
    """LOCAL_RANK, which `torchrun --virtual-local-rank` sets to 0 for every process.

    It masks one GPU for each. Nodes are then taken to have as many processes each.
    """
    local_rank = _number(environ, "LOCAL_RANK")
    mask, here = environ.get("CUDA_VISIBLE_DEVICES", ""), _local_count(environ)
    virtual = local_rank == 0 and mask and "," not in mask
    return _number(environ, "RANK") % here if virtual and here > 1 else local_rank


def _from_slurm(environ: Mapping[str, str]) -> Processes:
    _require(
        environ,
        "srun",
        *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_ID"),
        *("SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST"),
    )
    one_node = _number(environ, "SLURM_STEP_NUM_NODES") == 1
    host = "127.0.0.1" if one_node else first_host(environ["SLURM_STEP_NODELIST"])
    # Steps of one job may run at once on one node; each needs a port of its own.
    step = _number(environ, "SLURM_JOB_ID") * 16 + _number(environ, "SLURM_STEP_ID")
    return Processes(
        launcher="slurm",
        rank=_number(environ, "SLURM_PROCID"),
        count=_number(environ, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(environ, "SLURM_LOCALID"),
        coordinator=f"{host}:{port(step)}",
        local_count=_local_count(environ),
    )


def port(number: int) -> int:
    """A port below Linux's ephemeral ones (32768 on), used by outgoing connections."""
    return 20000 + number % 12000


def _local_count(environ: Mapping[str, str]) -> int:
    if environ.get("LOCAL_WORLD_SIZE"):
        return _number(environ, "LOCAL_WORLD_SIZE")
    return tasks_on_node(
        environ.get("SLURM_STEP_TASKS_PER_NODE", ""), environ.get("SLURM_NODEID", "")
    )


def tasks_on_node(per_node: str, node: str) -> int:
    """The tasks of a SLURM step on one of its nodes; 1 where that is unknown.

    Args:
      per_node: SLURM_STEP_TASKS_PER_NODE.
      node: SLURM_NODEID, from 0.

    >>> [tasks_on_node("2(x3),1", node) for node in ("0", "2", "3", "")]
    [2, 2, 1, 1]
    """
    counts: list[int] = []
    for entry in per_node.split(","):
        if found := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry):
            counts += [int(found[1])] * int(found[2] or 1)
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else 1


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise ConfigError(f"{name}={environ[name]} is not a whole number") from None


def _require(environ: Mapping[str, str], launcher: str, *names: str) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise ConfigError(
            f"started by {launcher}, but {', '.join(missing)} is not set; start every "
            f"process with {launcher}, or unset its other variables for one process"
        )


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list.

    >>> first_host("gpu[007-009,12],login1")
    'gpu007'
    >>> first_host("node1,node2")
    'node1'
    """
    head = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodelist)  # to a comma outside brackets
    if head is None:
        raise ConfigError(f"SLURM_STEP_NODELIST={nodelist!r} names no host")
    return re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", head[0])


def cores_of(cores: list[int], local_rank: int, count: int) -> list[int]:
    """The cores of a process: the same number for each on its node, without overlap.

    Args:
      cores: numbers of those that the node's processes may use together.
      count: cores for each.

    Raises:
      ConfigError: if there are too few.

    >>> cores_of([0, 1, 4, 5], local_rank=1, count=2)
    [4, 5]
    """
    last = (local_rank + 1) * count
    if last > len(cores):
        raise ConfigError(
            f"parallel.cores_per_device: {count} core(s) for each process need "
            f"{last} for local rank {local_rank}, and it may use {len(cores)}; take "
            "fewer, or null to share all cores"
        )
    return cores[last - count : last]
