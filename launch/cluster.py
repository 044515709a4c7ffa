"""Where the cells of a study run: this machine, one at a time, or SLURM's jobs.

Both go through submitit, which starts a process (or, on SLURM, a job's tasks) for a
function's call.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from launch import cell
from launch.overrides import ROOT
from recipe.errors import ConfigError
from recipe.study import ClusterConfig
from record.disk import to_json, write_whole

# Held by whichever cell runs on this machine, of whichever study of this user. Opened
# to append: in a folder that all share it may be another's link, to any file of ours.
LOCK = Path(tempfile.gettempdir()) / f"duet-cell-{os.getuid()}.lock"
CLIENTS = ("sbatch", "srun", "squeue", "sinfo")
POLL_SECONDS = {"local": 0.2, "slurm": 2.0}
# What SLURM may end a cell with, and the cell's log then says.
ENDINGS = {
    "TIMEOUT": "it took more than cluster.minutes",
    "NODE_FAIL": "its node failed",
    "CANCELLED": "it was cancelled",
}


@dataclass(frozen=True)
class Work:
    """One thing to run.

    Args:
      command: for this machine; starts all its processes.
      task: for one task of a SLURM step.
      devices: it trains on.
      tasks: of a SLURM step.
      log: file that everything it prints goes to.
    """

    name: str
    command: list[str]
    task: list[str]
    devices: int
    tasks: int
    log: Path


def check_cluster(
    cluster: ClusterConfig, world_sizes: list[int], asks: bool = True
) -> None:
    """Refuse what the machine or the cluster cannot do, before anything starts.

    Args:
      asks: SLURM, where that is the cluster; a plan on paper needs none.

    Raises:
      ConfigError: saying what there is.
    """
    if cluster.name == "local":
        _check_local(cluster, max(world_sizes))
    elif asks:
        _check_slurm(cluster, world_sizes)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_gpus() -> list[int]:
    """GPUs that this machine has, or that CUDA_VISIBLE_DEVICES leaves of them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [int(index) for index in chosen.split(",") if index.strip().isdigit()]
    return list(range(len(list(Path("/dev").glob("nvidia[0-9]*")))))


def cores_per_device(cluster: ClusterConfig, world_sizes: list[int]) -> int:
    """The same at every world size: what a curve compares is the number of devices."""
    if cluster.cores_per_device is not None:
        return cluster.cores_per_device
    return max(1, _cores() // max(world_sizes)) if cluster.name == "local" else 1


def _check_local(cluster: ClusterConfig, largest: int) -> None:
    for key, given in ("partition", cluster.partition), ("account", cluster.account):
        if given is not None:
            raise ConfigError(
                f"cluster.{key}={given} is SLURM's; add cluster=slurm, or leave it out"
            )
    gpus, cores = len(_visible_gpus()), _cores()
    if cluster.gpus_per_node > gpus:
        raise ConfigError(
            f"cluster.gpus_per_node={cluster.gpus_per_node}, but this machine has "
            f"{gpus}; use at most that many, 0 for CPUs"
        )
    if cluster.gpus_per_node and largest > cluster.gpus_per_node:
        raise ConfigError(
            f"study.world_size={largest} needs {largest} GPUs, and "
            f"cluster.gpus_per_node={cluster.gpus_per_node}; take smaller world sizes, "
            "or cluster=slurm for several nodes"
        )
    needed = largest * (cluster.cores_per_device or 1)
    if needed > cores:
        raise ConfigError(
            f"study.world_size={largest} with {cluster.cores_per_device or 1} core(s) "
            f"for each device needs {needed} cores, and this machine has {cores}; take "
            f"world sizes that fit, such as study.world_size=[1,{cores}]"
        )


def _check_slurm(cluster: ClusterConfig, world_sizes: list[int]) -> None:
    missing = [name for name in CLIENTS if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"cluster=slurm needs {', '.join(missing)}, not found on this machine; "
            "start the study on the cluster's login node, or use cluster=local"
        )
    listed = subprocess.run(
        ["sinfo", "-h", "-o", "%R|%P|%D|%c|%G"], capture_output=True, text=True
    )
    if listed.returncode:
        said = listed.stderr.strip().partition("\n")[0] or "nothing"
        raise ConfigError(
            f"cluster=slurm: sinfo fails and says {said}; start the study on the "
            "cluster's login node, or set SLURM_CONF to its slurm.conf; dry_run=true "
            "needs neither"
        )
    rows = [line.split("|") for line in listed.stdout.splitlines()]
    default = next((row[0] for row in rows if row[1].endswith("*")), None)
    name = cluster.partition or default
    kinds = [row for row in rows if row[0] == name]  # of nodes in that partition
    if not kinds:
        raise ConfigError(
            f"cluster.partition={cluster.partition} does not exist; one of: "
            f"{', '.join(sorted({row[0] for row in rows}))}"
        )
    nodes = sum(int(row[2]) for row in kinds)
    cores = max(int(row[3].rstrip("+")) for row in kinds)
    gpus = max(sum(map(int, re.findall(r"gpu:(?:\w+:)?(\d+)", r[4]))) for r in kinds)
    if cluster.gpus_per_node > gpus:
        raise ConfigError(
            f"cluster.gpus_per_node={cluster.gpus_per_node}, but a node of partition "
            f"{name} has {gpus}; use at most that many"
        )
    per_node = cluster.devices_per_node
    if cluster.gpus_per_node and per_node > cluster.gpus_per_node:
        raise ConfigError(
            f"cluster.tasks_per_node={per_node} is more than "
            f"cluster.gpus_per_node={cluster.gpus_per_node}; a task needs a GPU"
        )
    if per_node * (cluster.cores_per_device or 1) > cores:
        raise ConfigError(
            f"{per_node} tasks of {cluster.cores_per_device or 1} core(s) need more "
            f"than the {cores} cores of a node of partition {name}; change "
            "cluster.tasks_per_node or cluster.cores_per_device"
        )
    for size in world_sizes:
        if size > per_node * nodes or (size > per_node and size % per_node):
            raise ConfigError(
                f"study.world_size={size} takes no whole nodes of {per_node} devices, "
                f"or more than the {nodes} of partition {name}; use 1 to {per_node}, "
                f"or multiples of {per_node} up to {per_node * nodes}"
            )


def run(
    cluster: ClusterConfig,
    works: list[Work],
    cores: int,
    folder: Path,
    say: Callable[[str], None],
    before: Callable[[Work], None],
) -> Iterator[Work]:
    """Run everything, and hand each back when it has ended, well or badly.

    Args:
      cores: of each device.
      folder: for submitit's files.
      say: told of each job of SLURM's, which `job_of` finds again.
      before: called before each starts on this machine.
    """
    # submitit's process finds the function that it is to call by this.
    os.environ["PYTHONPATH"] = str(ROOT)
    if cluster.name == "local":
        yield from _run_local(cluster, works, cores, folder, before)
    else:
        yield from _run_slurm(cluster, works, cores, folder, say)


def _run_local(
    cluster: ClusterConfig,
    works: list[Work],
    cores: int,
    folder: Path,
    before: Callable[[Work], None],
) -> Iterator[Work]:
    for work in works:
        before(work)
        executor = submitit.LocalExecutor(folder)
        gpus = work.devices if cluster.gpus_per_node else 0
        executor.update_parameters(
            timeout_min=cluster.minutes,
            signal_delay_s=0,
            gpus_per_node=gpus,
            visible_gpus=_visible_gpus()[:gpus],
        )
        variables = {"OMP_NUM_THREADS": str(cores), "GLOO_SOCKET_IFNAME": "lo"}
        given = work.command, variables, work.log, cores * work.devices, LOCK
        job = None
        try:
            with _stderr_to(folder / "local.log"):
                job = executor.submit(cell.alone, *given)
            while not job.done():
                time.sleep(POLL_SECONDS["local"])
        except BaseException:
            if job is not None:
                job.cancel()
            _wait_for_end(30)
            raise
        yield work


@contextlib.contextmanager
def _stderr_to(file: Path) -> Iterator[None]:
    """Of what is started meanwhile; the traceback of an end is none of the table's."""
    kept = os.dup(2)
    try:
        with file.open("a") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _wait_for_end(seconds: float) -> None:
    """Until the cell that is being ended has let go of the machine, or so long."""
    deadline = time.monotonic() + seconds
    with LOCK.open("a") as held:
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(0.1)


@contextlib.contextmanager
def after_earlier(
    cluster: ClusterConfig, folder: Path, say: Callable[[str], None]
) -> Iterator[None]:
    """Wait for what an earlier start of this study left running, saying what it is.

    On this machine no cell begins while this is held: not even one that an earlier
    start had asked for, and that finds its log when it comes to run.
    """
    if cluster.name == "local":
        with LOCK.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for a cell of an earlier start, or of another study")
                fcntl.flock(held, fcntl.LOCK_EX)
            yield
        return
    earlier = set(_submitted(folder))
    if left := earlier & _listed():
        jobs = ", ".join(sorted(left))
        say(f"waiting for {len(left)} jobs of an earlier start: {jobs}")
    while earlier & _listed():
        time.sleep(POLL_SECONDS["slurm"])
    yield


def job_of(folder: Path, name: str) -> str | None:
    """The SLURM job that ran this last, such as "41537_1"; None on this machine."""
    jobs = [job for job, of in _submitted(folder).items() if of == name]
    return jobs[-1] if jobs else None


def submitit_log(folder: Path, job: str) -> Path:
    """What the job's script and its first task printed, besides the cell's own log."""
    return folder / f"{job}_0_log.out"


def _submitted(folder: Path) -> dict[str, str]:
    """What each job was to run, of all starts of this study in their order."""
    jobs = folder / "jobs.json"
    return json.loads(jobs.read_text()) if jobs.exists() else {}


def _run_slurm(
    cluster: ClusterConfig,
    works: list[Work],
    cores: int,
    folder: Path,
    say: Callable[[str], None],
) -> Iterator[Work]:
    waiting: dict[str, Work] = {}
    try:
        # An array for each stretch of one shape: the queue keeps the study's order.
        for _, stretch in groupby(works, key=lambda work: work.tasks):
            jobs = _submit(cluster, list(stretch), cores, folder)
            waiting |= jobs
            names = {job: work.name for job, work in jobs.items()}
            write_whole(folder / "jobs.json", to_json(_submitted(folder) | names))
            for job, name in names.items():
                say(f"job {job}: {name}")
        while waiting:
            time.sleep(POLL_SECONDS["slurm"])
            listed = _listed()
            for job in [job for job in waiting if job not in listed]:
                work = waiting.pop(job)
                _note_ending(job, work.log)
                yield work
    except BaseException:
        _cancel(waiting)
        raise


def _note_ending(job: str, log: Path) -> None:
    """Have the cell's log say so if it was SLURM that ended it."""
    query = ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"]
    state = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    if state in ENDINGS:
        with log.open("a") as file:
            file.write(f"error: {ENDINGS[state]}\n")


def _submit(
    cluster: ClusterConfig, works: list[Work], cores: int, folder: Path
) -> dict[str, Work]:
    """One array, of works of one shape; they by the ids of their jobs.

    Raises:
      ConfigError: what sbatch says.
    """
    tasks, per_node = works[0].tasks, cluster.devices_per_node
    devices = max(work.devices for work in works)
    executor = submitit.SlurmExecutor(folder)
    optional = {
        "partition": cluster.partition,
        "account": cluster.account,
        "gpus_per_node": min(devices, cluster.gpus_per_node) or None,
        "exclusive": cluster.exclusive or None,
    }
    cpus = cores * (devices if tasks == 1 else 1)
    executor.update_parameters(
        job_name="duet",
        time=cluster.minutes,
        signal_delay_s=0,  # none: the time is the cell's to its end
        nodes=-(-tasks // per_node),
        ntasks_per_node=min(tasks, per_node),
        cpus_per_task=cpus,
        stderr_to_stdout=True,
        # srun takes the cores from sbatch no longer since SLURM 22.05.
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
        # A repeat is a fresh process: after a node's failure too, by the next start.
        additional_parameters={"no_requeue": True},
        **{key: value for key, value in optional.items() if value is not None},
    )
    variables = {"OMP_NUM_THREADS": str(cores)}
    try:
        with executor.batch():
            jobs = [
                executor.submit(cell.task, work.task, variables, work.log)
                for work in works
            ]
    except FailedJobError as error:
        raise ConfigError(f"cluster=slurm: sbatch says {error}") from error
    return {job.job_id: work for job, work in zip(jobs, works, strict=True)}


def _cancel(jobs: Iterable[str]) -> None:
    if left := sorted(_listed().intersection(jobs)):
        subprocess.run(["scancel", *left], check=False)


def _listed() -> set[str]:
    """This user's jobs that wait or run, an array's each by its own id.

    squeue rather than submitit, which asks sacct, that not every cluster has.
    """
    command = ["squeue", "--me", "-h", "-r", "-o", "%i"]
    while True:
        listed = subprocess.run(command, capture_output=True, text=True)
        if not listed.returncode:
            return set(listed.stdout.split())
        time.sleep(10)  # the controller is being restarted: nothing is known
