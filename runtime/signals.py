"""Signals, and a file, that ask a run to stop gracefully.

SIGTERM, SIGINT, SIGUSR1, SIGHUP and a file all mean: finish the window, save, leave.
SIGHUP, of a closed terminal, is ignored under nohup. The ranks poll `asked` and share
the answer, so all stop after the same step. A second signal exits at once; as files are
written atomically, none is half-written then.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# One stop may reach a process twice: from the terminal or scheduler, which signals all
# processes, and from torchrun, which forwards its own. Only one that comes later than
# this counts as a second signal.
DEBOUNCE_SECONDS = 2.0


class Stopping:
    """Notes that a run was asked to stop; a context manager that restores handlers.

    `install` again after `jax.distributed.initialize`, which replaces SIGTERM's handler
    by its own.

    Python runs handlers between bytecodes, so not while a step compiles or waits for a
    dead rank. So a thread reads signals from the pipe that Python's C handler writes to
    at once.

    Args:
      now: monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_pipe = -1
        self._pipe: tuple[socket.socket, socket.socket] | None = None
        self._reader: threading.Thread | None = None
        self._signal: signal.Signals | None = None
        self._file: Path | None = None

    def install(self) -> None:
        """Install the handlers; from the main thread, as Python requires.

        `restore` reinstalls those from before the first call.
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
                continue  # set by nohup
            previous = signal.signal(number, _leave_to_the_thread)
            self._previous.setdefault(number, previous)

    def restore(self) -> None:
        """Reinstall the previous handlers."""
        for number, handler in self._previous.items():
            # None: a handler that Python did not install and cannot reinstall.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()
        if self._pipe is not None and self._reader is not None:
            signal.set_wakeup_fd(self._previous_pipe)
            reading, writing = self._pipe
            writing.close()  # tells the reader to end
            self._reader.join()
            reading.close()
            self._pipe = self._reader = None

    def watch(self, file: Path) -> None:
        """Treat this file, once it exists, as a request to stop."""
        self._file = file.absolute()

    def asked(self) -> str | None:
        """What asked this rank to stop: "SIGTERM", the file's name, or None."""
        if self._signal is not None:
            return self._signal.name
        if self._file is not None and os.path.isfile(self._file):
            return self._file.name
        return None

    def _read(self, pipe: socket.socket) -> None:
        since = 0.0
        while number := pipe.recv(1):
            if number[0] not in SIGNALS:
                continue  # for another Python handler, such as a timer's
            if self._signal is None:
                self._signal, since = signal.Signals(number[0]), self._now()
            elif self._now() - since >= DEBOUNCE_SECONDS:
                # Without waiting for Python's clean-up or other ranks.
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
    """A Python handler must exist for the C handler to write to the pipe."""
