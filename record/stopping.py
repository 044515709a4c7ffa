"""Stopping in good order: who asked for it, and the marker that asks to be run again.

SIGTERM, SIGINT, SIGUSR1, SIGHUP and a file STOP in the run folder all mean: finish the
window, save, leave. SIGHUP, a terminal's end, is ignored where nohup asked for that.
The steps poll `asked`, share what it says, and so all ranks leave after the same step.
A second signal leaves at once; since files appear whole or not at all, nothing is
half-written then.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from recipe.errors import StoppedError
from record.disk import recording, to_json, write_whole

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
STOP, REQUEUE = "STOP", "REQUEUE"
# A stop reaches a process more than once: from the terminal or the scheduler, which
# signal all processes, and again from torchrun, which forwards its own. Only what comes
# later than this is a second signal, in seconds.
SAME_STOP = 2.0


class Stopping:
    """Notes that a run was asked to stop; a context manager that restores handlers.

    `install` again after `jax.distributed.initialize`, which replaces SIGTERM's handler
    by its own.

    Python runs handlers between bytecodes, which a step that compiles, or waits for a
    rank that is no more, does not reach. So signals are read by a thread, from the pipe
    that Python's C handler writes to at once.

    Args:
      now: seconds, of a clock that nobody sets.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_pipe = -1
        self._pipe: tuple[socket.socket, socket.socket] | None = None
        self._reader: threading.Thread | None = None
        self._signal: signal.Signals | None = None
        self._folder: Path | None = None

    def install(self) -> None:
        """Take the signals over; call it in the main thread, as Python demands.

        What handled them before the first call is what `restore` gives back.
        """
        if self._pipe is None:
            reading, writing = self._pipe = socket.socketpair()
            writing.setblocking(False)
            self._previous_pipe = signal.set_wakeup_fd(
                writing.fileno(), warn_on_full_buffer=False
            )
            self._reader = threading.Thread(
                target=self._read, args=(reading,), name="stopping", daemon=True
            )
            self._reader.start()
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup's wish
            previous = signal.signal(number, _leave_to_the_thread)
            self._previous.setdefault(number, previous)

    def restore(self) -> None:
        """Give the signals back to what handled them before."""
        for number, handler in self._previous.items():
            # None: a handler that was not Python's, which it cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()
        if self._pipe is not None and self._reader is not None:
            signal.set_wakeup_fd(self._previous_pipe)
            reading, writing = self._pipe
            writing.close()  # which the reader takes for the end
            self._reader.join()
            reading.close()
            self._pipe = self._reader = None

    def watch(self, folder: Path | str | None) -> None:
        """Look for STOP in the run folder from now on."""
        self._folder = None if folder is None else Path(folder).absolute()

    def asked(self) -> str | None:
        """What asked this rank to stop, "SIGTERM" or "STOP"; None where nothing did."""
        if self._signal is not None:
            return self._signal.name
        if self._folder is not None and os.path.isfile(self._folder / STOP):
            return STOP
        return None

    def _read(self, pipe: socket.socket) -> None:
        since = 0.0
        while number := pipe.recv(1):
            if number[0] not in SIGNALS:
                continue  # of another handler of Python's, such as a timer's
            if self._signal is None:
                self._signal, since = signal.Signals(number[0]), self._now()
            elif self._now() - since >= SAME_STOP:
                # Neither Python's clean-up nor other ranks are waited for.
                os._exit(128 + number[0])

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()


def _leave_to_the_thread(number: int, frame: FrameType | None) -> None:
    """A handler of Python's, without which its C handler would write nothing."""


def stopped_error(folder: Path | None, step: int, reason: str) -> StoppedError:
    """What a run leaves with that was asked to stop, with its way back in.

    Args:
      folder: the run's; None where it has none yet.
      step: after which it goes on.
      reason: "SIGTERM", "STOP" or "another rank".
    """
    said = "nothing was begun"
    if folder is not None:
        said = (
            f"saved after step {step}. To go on: the same command with run.dir={folder}"
        )
    error = StoppedError(f"asked to by {reason}; {said}")
    if reason == signal.SIGINT.name:
        error.exit_status = 128 + signal.SIGINT
    return error


def mark_requeue(folder: Path, step: int, reason: str) -> None:
    """Leave the file that tells a batch script to start the same command again.

    The exit status cannot: torchrun's is 1 though its workers left in good order. What
    an earlier start has left is the script's to remove before it starts the next.

        rm -f "$RUN_DIR/REQUEUE"
        srun ...
        test -e "$RUN_DIR/REQUEUE" && scontrol requeue "$SLURM_JOB_ID"

    A STOP file is done with then, and is removed.

    Raises:
      RecordError: if the folder cannot be written.
    """
    with recording(folder):
        write_whole(folder / REQUEUE, to_json({"step": step, "reason": reason}))
        with contextlib.suppress(FileNotFoundError):
            (folder / STOP).unlink()
