"""Processes that a script starts; each is ended with all its descendants."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

import psutil

from launch.overrides import ROOT


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
        family = _suspended(process.pid) if process.poll() is None else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


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
