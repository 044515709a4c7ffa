"""What runs in a process that submitit starts: one cell of a study."""

import fcntl
import os
import subprocess
from pathlib import Path

from launch.overrides import ROOT
from launch.training import end


def alone(
    command: list[str], variables: dict[str, str], log: Path, cores: int, lock: Path
) -> int:
    """Run a cell on this machine while no other does, and return its exit status.

    Args:
      cores: that it and its processes may use, for whole libraries keep to them.
      lock: held until the last of its processes ends, even if this one is killed.
    """
    with lock.open("w") as held, log.open("a") as output:
        fcntl.flock(held, fcntl.LOCK_EX)
        if hasattr(os, "sched_setaffinity"):  # Linux has it
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that ranks end with what launched them
            pass_fds=[held.fileno()],
        )
        try:
            return process.wait()
        except KeyboardInterrupt:  # what submitit ends a function with
            output.write("error: it was ended, or took more than cluster.minutes\n")
            raise
        finally:
            end(process)


def task(command: list[str], variables: dict[str, str], log: Path) -> int:
    """Run one rank of a cell in a task of a SLURM step; SLURM ends it."""
    with log.open("a") as output:
        return subprocess.call(
            command,
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
