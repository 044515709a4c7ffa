"""Trainings as processes: their command lines, their end, and what they said."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

SCRIPTS = {"torch": "launch/pytorch.py", "jax": "launch/jax.py"}


def command(framework: str, processes: int, overrides: list[str]) -> list[str]:
    """The command line that trains, in as many processes on this machine."""
    launcher = [sys.executable]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        launcher += [*torchrun, f"--nproc-per-node={processes}"]
    return [*launcher, SCRIPTS[framework], *overrides]


def quoted(path: Path) -> str:
    """A path as Hydra's grammar takes any text."""
    return "'" + str(path).replace("'", "\\'") + "'"


def end(process: subprocess.Popen[bytes]) -> None:
    """End a session's first process and whatever came of it, if any of it still runs.

    torchrun gives each rank a session of its own, so a kill of this one leaves them.
    """
    family = []
    if process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def said(log: Path) -> str:
    """Why a training failed: its own errors, or else the last that it printed."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines if line.startswith("error: ")] or lines[-12:]
    return "\n  ".join(errors) or "it said nothing"
