"""One run of a study, in a process that submitit starts."""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from launch.children import ROOT, end, guarded, start


def alone(
    command: list[str], variables: dict[str, str], log: Path, cores: int, lock: Path
) -> int:
    """Run it on this machine, exclusively, and return its exit status.

    Args:
      log: file for its output; if it exists, the run was done while this waited.
      cores: number that it and its processes may use.
      lock: held until the command ends, even if this process is killed.
    """
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        return 0 if log.exists() else _run(command, variables, log, cores, held)


def _run(
    command: list[str], variables: dict[str, str], log: Path, cores: int, held: TextIO
) -> int:
    with log.open("w") as output:
        if hasattr(os, "sched_setaffinity"):  # Linux has it
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        with interrupts() as interrupted:
            process = start(command, output, variables, keep=[held.fileno()])
            with guarded(process, keep=[held.fileno()]):
                try:
                    while process.poll() is None and not interrupted.wait(0.2):
                        pass
                finally:
                    end(process)
            # Inside the context, where the next Ctrl-C is still only an event.
            if interrupted.is_set():
                output.write("error: it was ended, or took more than cluster.minutes\n")
                output.flush()
                raise KeyboardInterrupt
        return process.returncode


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn SIGINT into an event: an exception might interrupt the clean-up.

    submitit ends a function by SIGINT. A terminal's Ctrl-C arrives several times:
    directly, and again from the study and from submitit, which also received it.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals are handled in the main thread
        return
    previous = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


def task(command: list[str], variables: dict[str, str], log: Path) -> int:
    """Run one rank in a task of a SLURM step; SLURM ends it."""
    with log.open("a") as output:
        return subprocess.call(
            command,
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
