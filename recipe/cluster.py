"""Where the runs of a study execute, and what is requested from SLURM."""

import re
from dataclasses import dataclass, field

from recipe.errors import ConfigError
from recipe.fields import at_least, one_of

CLUSTERS = ("local", "slurm")
# Keys that have no meaning on one machine.
SLURM_ALONE = (
    *("partition", "account", "qos", "reservation", "constraint", "memory"),
    *("gpu_type", "setup", "srun_args", "additional"),
)
# Flags of sbatch that a study sets itself, and the key that decides each.
DECIDED = {
    "time": "cluster.minutes",
    "partition": "cluster.partition",
    "account": "cluster.account",
    "qos": "cluster.qos",
    "reservation": "cluster.reservation",
    "constraint": "cluster.constraint",
    "mem": "cluster.memory",
    "exclusive": "cluster.exclusive",
    "gpus": "cluster.gpus_per_node",
    "gpus-per-node": "cluster.gpus_per_node",
    "gpus-per-task": "cluster.gpus_per_node",
    "cpus-per-task": "cluster.cores_per_device",
    "nodes": "study.world_size and cluster.tasks_per_node",
    "ntasks": "study.world_size",
    "ntasks-per-node": "cluster.tasks_per_node",
}
# Flags by which a study finds its jobs, their output and their end.
NEEDED = (
    *("array", "error", "job-name", "kill-on-bad-exit", "no-requeue", "open-mode"),
    *("output", "requeue", "signal", "wrap"),
)
# srun's own flags with one dash, of those that a study sets.
SHORT = {
    **{"n": "ntasks", "N": "nodes", "c": "cpus-per-task", "t": "time", "G": "gpus"},
    **{"p": "partition", "A": "account", "q": "qos", "C": "constraint"},
    **{"o": "output", "e": "error", "J": "job-name"},
}


@dataclass(kw_only=True)
class ClusterConfig:
    """Where the runs of a study execute, and with which resources."""

    name: str
    # 0: on CPUs. `CUDA_VISIBLE_DEVICES` may name them by number or UUID, also MIG
    # instances.
    gpus_per_node: int = 0
    # slurm: which of a node's GPUs, as `sinfo -o %G` calls them (`a100`, `1g.10gb`);
    # `null`: any.
    gpu_type: str | None = None
    tasks_per_node: int | None = None  # devices of a node; `null`: its GPUs, else 1
    # The same at every world size. `null`: with GPUs the node's cores over its GPUs, on
    # this machine's CPUs its cores over the largest world size, on SLURM's 1.
    cores_per_device: int | None = None
    minutes: int = 30  # that a run may take before it is ended
    partition: str | None = None  # slurm; `null`: the cluster's own
    account: str | None = None  # slurm
    qos: str | None = None  # slurm: quality of service
    reservation: str | None = None  # slurm
    constraint: str | None = None  # slurm: features of nodes: `'ib&a100'`
    memory: str | None = None  # slurm: of a node: `64G`; `0` is all of it
    exclusive: bool = True  # whole nodes for each run, since it is timed
    # slurm: lines of shell before srun: `"cluster.setup=['module load cuda']"`.
    setup: list[str] = field(default_factory=list)
    # slurm: further arguments of srun; those that the study sets are refused.
    srun_args: list[str] = field(default_factory=list)
    # slurm: further flags of sbatch: `"cluster.additional=['--comment=mine']"`.
    additional: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        one_of("cluster", self.name, CLUSTERS)
        at_least("cluster.gpus_per_node", self.gpus_per_node, 0)
        for key in "tasks_per_node", "cores_per_device", "minutes":
            at_least(f"cluster.{key}", getattr(self, key), 1)
        if self.name == "local":
            for key in SLURM_ALONE:
                if (given := getattr(self, key)) not in (None, []):
                    raise ConfigError(
                        f"cluster.{key}={given} is for SLURM only; add cluster=slurm, "
                        "or "
                        "leave it out"
                    )
        if self.gpu_type is not None and not self.gpus_per_node:
            raise ConfigError(
                f"cluster.gpu_type={self.gpu_type} with cluster.gpus_per_node=0 asks "
                "for no GPU; add cluster.gpus_per_node=NUMBER"
            )
        if self.gpus_per_node and self.devices_per_node > self.gpus_per_node:
            raise ConfigError(
                f"cluster.tasks_per_node={self.tasks_per_node} is more than "
                f"cluster.gpus_per_node={self.gpus_per_node}; a task needs a GPU"
            )
        for name in self.flags:
            _check_flag(name)
        for given in self.srun_args:
            _check_srun_argument(given)

    @property
    def devices_per_node(self) -> int:
        return self.tasks_per_node or self.gpus_per_node or 1

    def nodes(self, tasks: int) -> int:
        """Whole nodes that so many tasks take, with a device each.

        >>> ClusterConfig(name="slurm", gpus_per_node=4).nodes(5)
        2
        """
        return -(-tasks // self.devices_per_node)

    @property
    def flags(self) -> dict[str, str | bool]:
        """The flags in `additional`, by name; True for one without a value.

        >>> ClusterConfig(name="slurm", additional=["--comment=a=b", "hold"]).flags
        {'comment': 'a=b', 'hold': True}
        """
        split = [given.lstrip("-").partition("=") for given in self.additional]
        return {name: value if equals else True for name, equals, value in split}


def _check_flag(name: str) -> None:
    """Refuse what is not a long flag of sbatch, or is set by the study."""
    if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
        raise ConfigError(
            f"cluster.additional: {name!r} is not a long flag of sbatch; write "
            '\'cluster.additional=["--comment=mine","--contiguous"]\''
        )
    _refuse_own("additional", name)


def _check_srun_argument(given: str) -> None:
    """Refuse a flag of srun that the study sets; a word may be a flag's value."""
    if given.startswith("--"):
        _refuse_own("srun_args", given[2:].partition("=")[0])
    elif given.startswith("-"):
        _refuse_own("srun_args", SHORT.get(given[1:2], ""))


def _refuse_own(key: str, name: str) -> None:
    """Refuse what would silently overrule the study."""
    if name in DECIDED:
        raise ConfigError(
            f"cluster.{key}: --{name} is set by the study; use {DECIDED[name]}"
        )
    if name in NEEDED:
        raise ConfigError(
            f"cluster.{key}: a study sets --{name} itself, to find its jobs and their "
            "output; leave it out"
        )
