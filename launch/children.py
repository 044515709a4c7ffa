"""Processes that a script starts; each is ended with all its descendants."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import psutil

# Not launch.overrides' own, which would bring Hydra into the process of `guarded`.
ROOT = Path(__file__).resolve().parent.parent


def start(
    command: list[str],
    output: TextIO,
    variables: Mapping[str, str] | None = None,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a command in the checkout, in a new session that `end` ends.

    Args:
      output: file for its output.
      variables: added to its environment.
      keep: file descriptors that it inherits.
    """
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that ranks end with their launcher
        pass_fds=keep,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a session's first process and all its descendants, if any still runs.

    torchrun gives each rank a new session, so killing this one does not reach them.
    """
    # Without masking Ctrl-C if everything has ended already.
    with contextlib.nullcontext() if process.poll() is not None else _undisturbed():
        _kill(process.pid, _suspended(process.pid) if process.poll() is None else [])
        process.wait()


@contextlib.contextmanager
def guarded(
    process: subprocess.Popen[bytes], keep: Sequence[int] = ()
) -> Iterator[None]:
    """Have a session ended even if this process is killed before it can `end` it.

    submitit's controller gives a call that it interrupts one second, then SIGKILL; on a
    busy machine a family may be suspended by then, and not yet killed.

    Args:
      keep: file descriptors that stay open until it is ended.
    """
    guard = subprocess.Popen(
        [sys.executable, "-m", "launch.children", str(process.pid)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # out of reach of whatever kills this process
        pass_fds=keep,
    )
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            guard.communicate(b"ended")


def guard(first: int) -> None:
    """End a session's first process and its descendants, unless stdin says so."""
    if sys.stdin.read() != "ended":
        _kill(first, _suspended(first))


def _kill(first: int, family: list[psutil.Process]) -> None:
    """The youngest first: whoever is interrupted here can find the others again."""
    for member in reversed(family):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(first, signal.SIGKILL)


def _suspended(first: int) -> list[psutil.Process]:
    """A process and all its descendants, suspended so that none starts another."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(first)
        found = [process]
        while found:
            for member in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.suspend()
            family += found
            found = [m for m in process.children(recursive=True) if m not in family]
    return family


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Masks a second Ctrl-C, which would interrupt the clean-up of the first."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread
        return
    stops = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = [signal.signal(number, signal.SIG_IGN) for number in stops]
    try:
        yield
    finally:
        for number, handler in zip(stops, before, strict=True):
            signal.signal(number, handler)


if __name__ == "__main__":
    guard(int(sys.argv[1]))
