"""Executes the runs of a study: on this machine, one at a time, or as SLURM jobs.

Both use submitit, which calls a function in a process (or, on SLURM, in a job's tasks).
"""

import contextlib
import fcntl
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from launch import links, study_job
from launch.nodes import visible_gpus
from launch.overrides import ROOT
from launch.submission import submission
from recipe.cluster import ClusterConfig
from recipe.errors import ConfigError
from record.disk import to_json, write_whole

# Held by the run that executes on this machine, of any study of this user. Opened to
# append: in a shared folder it may be someone's link to any file of ours.
LOCK = Path(tempfile.gettempdir()) / f"duet-cell-{os.getuid()}.lock"
POLL_SECONDS = {"local": 0.2, "slurm": 2.0}
# Why SLURM may end a run, and what the run's log then says.
ENDINGS = {
    "TIMEOUT": "it took more than cluster.minutes",
    "NODE_FAIL": "its node failed",
    "CANCELLED": "it was cancelled",
}


@dataclass(frozen=True)
class Work:
    """A run or a parity check, to be executed.

    Args:
      command: for this machine; starts all its processes.
      task: for one task of a SLURM step.
      devices: that it trains on.
      tasks: of a SLURM step.
      log: file for its output.
    """

    name: str
    command: list[str]
    task: list[str]
    devices: int
    tasks: int
    log: Path


def run(
    cluster: ClusterConfig,
    works: list[Work],
    cores: int,
    folder: Path,
    say: Callable[[str], None],
    before: Callable[[Work], None],
) -> Iterator[tuple[Work, float | None]]:
    """Execute all works, and yield each when it has ended, successfully or not.

    With the seconds that it took, None if unknown.

    Args:
      cores: of each device.
      folder: for submitit's files.
      say: called with each SLURM job, which `job_of` finds again.
      before: called before each starts on this machine.
    """
    # submitit's process imports the function through this.
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
) -> Iterator[tuple[Work, float | None]]:
    for work in works:
        before(work)
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=cluster.minutes, signal_delay_s=0)
        gpus = work.devices if cluster.gpus_per_node else 0
        variables = {
            "OMP_NUM_THREADS": str(cores),
            "GLOO_SOCKET_IFNAME": "lo",
            links.STUDY: str(os.getpid()),
            # Not through submitit, which takes numbers but no UUIDs.
            "CUDA_VISIBLE_DEVICES": ",".join(visible_gpus(os.environ)[:gpus]),
        }
        given = work.command, variables, work.log, cores * work.devices, LOCK
        job, started = None, time.monotonic()
        try:
            with _stderr_to(folder / "local.log"):
                job = executor.submit(study_job.alone, *given)
            while not job.done():
                time.sleep(POLL_SECONDS["local"])
        except BaseException:
            if job is not None:
                job.cancel()
            _wait_for_end(30)
            raise
        yield work, time.monotonic() - started


@contextlib.contextmanager
def _stderr_to(file: Path) -> Iterator[None]:
    """Redirect stderr of processes started here, to keep it out of the table."""
    kept = os.dup(2)
    try:
        with file.open("a") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _wait_for_end(seconds: float) -> None:
    """Wait until the run that is being ended has released the lock, or time out."""
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
    """Wait for what an earlier start of this study left running, and say what it is.

    While this is held no run starts on this machine, not even a queued one of an
    earlier start, which then finds its log and does nothing.
    """
    if cluster.name == "local":
        with LOCK.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for a run of an earlier start, or of another study")
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
    """Output of the job's script and first task, besides the run's own log."""
    return folder / f"{job}_0_log.out"


def _submitted(folder: Path) -> dict[str, str]:
    """What each job was submitted for, of all starts of this study in order."""
    jobs = folder / "jobs.json"
    return json.loads(jobs.read_text()) if jobs.exists() else {}


def _run_slurm(
    cluster: ClusterConfig,
    works: list[Work],
    cores: int,
    folder: Path,
    say: Callable[[str], None],
) -> Iterator[tuple[Work, float | None]]:
    waiting: dict[str, Work] = {}
    try:
        # An array for consecutive works of one shape: the queue keeps the study's
        # order.
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
                yield work, _note_ending(job, work.log)
    except BaseException:
        _cancel(waiting)
        raise


def _note_ending(job: str, log: Path) -> float | None:
    """Note in the run's log if SLURM ended it; returns the seconds that it took."""
    query = ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T %M"]
    words = subprocess.run(query, capture_output=True, text=True).stdout.split()
    state, taken = words if len(words) == 2 else ("", "")
    if state in ENDINGS:
        with log.open("a") as file:
            file.write(f"error: {ENDINGS[state]}\n")
    return seconds_of(taken)


def seconds_of(taken: str) -> float | None:
    """Seconds from squeue's elapsed time; None if it is not a time.

    >>> seconds_of("1-02:03:04"), seconds_of("0:07"), seconds_of("INVALID")
    (93784.0, 7.0, None)
    """
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", taken)
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 60 * (60 * (24 * days + hours) + minutes) + seconds


def _submit(
    cluster: ClusterConfig, works: list[Work], cores: int, folder: Path
) -> dict[str, Work]:
    """Submit runs with equal resources as one job array; returns them by job id.

    Raises:
      ConfigError: with sbatch's message.
    """
    devices = max(work.devices for work in works)
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**submission(cluster, works[0].tasks, devices, cores))
    variables = {"OMP_NUM_THREADS": str(cores)}
    try:
        with executor.batch():
            jobs = [
                executor.submit(study_job.task, work.task, variables, work.log)
                for work in works
            ]
    except FailedJobError as error:
        raise ConfigError(f"cluster=slurm: sbatch says {error}") from error
    return {job.job_id: work for job, work in zip(jobs, works, strict=True)}


def _cancel(jobs: Iterable[str]) -> None:
    if left := sorted(_listed().intersection(jobs)):
        subprocess.run(["scancel", *left], check=False)


def _listed() -> set[str]:
    """This user's pending and running jobs, each element of an array by its id.

    By squeue rather than submitit, whose sacct not every cluster has.
    """
    command = ["squeue", "--me", "-h", "-r", "-o", "%i"]
    while True:
        listed = subprocess.run(command, capture_output=True, text=True)
        if not listed.returncode:
            return set(listed.stdout.split())
        time.sleep(10)  # the controller is being restarted: unknown
