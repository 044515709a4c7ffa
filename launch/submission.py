"""SLURM parameters for one work of a study; submitit 1.5 writes the script."""

import shlex
from typing import Any

from recipe.cluster import ClusterConfig


def srun_arguments(cluster: ClusterConfig, cpus: int) -> list[str]:
    """Of the step; since SLURM 22.05 srun does not inherit the cores from sbatch."""
    return ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}", *cluster.srun_args]


def submission(
    cluster: ClusterConfig, tasks: int, devices: int, cores: int
) -> dict[str, Any]:
    """The parameters of submitit's `SlurmExecutor`.

    Args:
      tasks: of the step, over all nodes.
      devices: that the work trains on; those of one task are on one node.
      cores: of each device.
    """
    gpus: Any = min(devices, cluster.gpus_per_node) or None
    if gpus and cluster.gpu_type:
        gpus = f"{cluster.gpu_type}:{gpus}"
    cpus = cores * (devices if tasks == 1 else 1)
    # A repeat is a fresh process, also after a node failure, by the next start.
    flags: dict[str, Any] = {"no_requeue": True, **cluster.flags}
    optional = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mem": cluster.memory,
        "exclusive": cluster.exclusive or None,
        "gpus_per_node": gpus,
        "setup": list(cluster.setup) or None,
    }
    if cluster.reservation is not None:  # which submitit has no parameter for
        flags["reservation"] = cluster.reservation
    return {
        "job_name": "duet",
        "time": cluster.minutes,
        "signal_delay_s": 0,  # no signal: the run may use all of its time
        "nodes": cluster.nodes(tasks),
        "ntasks_per_node": min(tasks, cluster.devices_per_node),
        "cpus_per_task": cpus,
        "stderr_to_stdout": True,
        "srun_args": srun_arguments(cluster, cpus),
        # submitit's default "submitit" is refused by clusters that check keys.
        "wckey": None,
        "additional_parameters": flags,
        **{key: value for key, value in optional.items() if value is not None},
    }


def srun_words(
    cluster: ClusterConfig, tasks: int, devices: int, cores: int
) -> list[str]:
    """The same as a readable command: one srun with the same resources."""
    asked = submission(cluster, tasks, devices, cores)
    names = (
        *("nodes", "ntasks_per_node", "gpus_per_node", "time", "partition", "account"),
        *("qos", "constraint", "mem", "exclusive"),
    )
    flags = {name: asked[name] for name in names if name in asked}
    # For jobs only; an interactive step is never requeued.
    more = asked["additional_parameters"]
    flags |= {key: value for key, value in more.items() if key != "no_requeue"}
    words = [_flag(name, value) for name, value in flags.items()]
    return ["srun", *words, *asked["srun_args"]]


def _flag(name: str, value: Any) -> str:
    dashed = f"--{name.replace('_', '-')}"
    return dashed if value is True else f"{dashed}={shlex.quote(str(value))}"
