"""Detects ranks that die or freeze, names them, and ends all ranks.

Every rank but rank 0 keeps a connection to rank 0, with heartbeats both ways. A
connection that closes without a goodbye means a dead rank, noticed at once; silence
means a frozen one; and if all are alive but no window ends, they are deadlocked.
Whoever notices tells the others. It works before a framework is imported, and while one
waits inside a collective, which no other thread can interrupt: so a process that does
not return by itself within a few seconds is ended from here.
"""

import contextlib
import logging
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recipe.errors import DuetError, LostError
from recipe.execution import ParallelConfig
from runtime.connection import Connection, accept, connect, listen
from runtime.processes import Processes
from runtime.progress import Progress

LOGGER = logging.getLogger("duet")

BEAT_SECONDS = 0.5  # between two heartbeats
# A collective's own error may come before the message of which rank was lost.
NEWS_SECONDS = 3.0
# Time for a process to return from a collective once a rank is lost, and then to exit
# by itself.
RETURN_SECONDS, EXIT_SECONDS = 5.0, 150.0
# Until a message says which rank is being waited for.
NOTICE_SECONDS = 20.0


class _Peer:
    """Another rank, as seen from this one.

    Args:
      hello: its greeting.
    """

    def __init__(self, connection: Connection, hello: dict[str, Any]):
        self.connection = connection
        self.rank: int = hello["rank"]
        self.place = f" (process {hello['process']} on {hello['host']})"
        self.silent = 0  # beats
        self.greeted = False  # whether it has sent more than its greeting
        self.closed = False  # by its own word


class Heartbeat:
    """Monitors the ranks of a run; a context manager around all of it.

    Time is counted in beats of this process, so that no rank counts as frozen if
    all were suspended together or the clock was changed.

    Args:
      processes: this one's rank; with one process nothing is monitored.
      config: how long a rank may be silent, and how long a window may take.
    """

    def __init__(self, processes: Processes, config: ParallelConfig):
        self._processes, self._config = processes, config
        self._rank = processes.rank
        self._main = threading.get_ident()
        self._peers: dict[int, _Peer] = {}
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(
            target=self._watch, name="heartbeat", daemon=True
        )
        self._folder: Path | None = None
        self._record: Callable[[str], object] | None = None
        self._beats = 0
        self._connected = threading.Event()
        self._progress = Progress(config, BEAT_SECONDS)
        self._text, self._speaks, self._waited = "", False, False
        self._lost, self._returned = threading.Event(), threading.Event()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        if self._processes.count > 1:
            self._thread.start()
        return self

    def watch(self, folder: Path) -> None:
        """Note the run folder, where logs are from now on."""
        self._folder = folder

    def connect(self) -> None:
        """Wait until all ranks are connected; one that is lost later is named."""
        if self._processes.count > 1:
            self._connected.wait()

    def progress(self, slow: bool = False) -> None:
        """Note that the ranks have synchronised.

        Args:
          slow: whether what follows may take as long as a start.
        """
        self._progress.reached(slow)

    @contextlib.contextmanager
    def guard(self, record: Callable[[str], object]) -> Iterator[None]:
        """Name the lost rank, where a collective only reports that it failed.

        Args:
          record: is given the reason, in case the main thread never returns.

        Raises:
          LostError: in place of the error that a lost rank has caused.
        """
        self._record = record
        try:
            yield
        except DuetError:
            raise
        except Exception as error:
            if self._lost_in_time():
                self._returned.set()
                raise LostError(self._text) from error
            raise
        finally:
            self._record = None

    def close(self) -> None:
        """Disconnect cleanly, as all ranks do; none counts as lost from here on."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._processes.count == 1 or self._closed.is_set() or error is None:
            self.close()
            return
        self._returned.set()
        if isinstance(error, DuetError) and not isinstance(error, LostError):
            self._tell(failed=str(error))
            return  # `launch/cli.py` prints it, and ends the process
        # The others wait in collectives, and so would either framework's clean-up at
        # exit.
        if not self._lost_in_time():
            traceback.print_exception(error)
            self._tell(failed=f"{type(error).__name__}: {error}")
        self._leave()

    def _lost_in_time(self) -> bool:
        """Whether a lost rank may be why this one failed; waits for news once."""
        if self._waited or self._processes.count == 1:
            return self._lost.is_set()
        self._waited = True
        return self._lost.wait(NEWS_SECONDS)

    # The rest runs in the thread

    def _watch(self) -> None:
        try:
            self._connect()
            following = time.monotonic()
            while not self._closed.is_set() and not self._lost.is_set():
                for key, _ in self._selector.select(timeout=BEAT_SECONDS / 5):
                    key.data()
                if time.monotonic() >= following:
                    following = time.monotonic() + BEAT_SECONDS
                    self._beat()
            if not self._lost.is_set():
                for peer in self._peers.values():
                    peer.connection.send(closed=True)
        except Exception as error:  # a failing monitor must not end the run
            LOGGER.warning("the ranks are no longer monitored: %s", error)
        finally:
            self._connected.set()  # the run continues without it
            for key in list(self._selector.get_map().values()):
                key.fileobj.close()  # pyright: ignore[reportAttributeAccessIssue]
        if self._lost.is_set():
            self._returned.wait(RETURN_SECONDS)
            if self._returned.is_set():
                time.sleep(EXIT_SECONDS)
            elif self._record is not None:
                self._record(self._text)
            self._leave()

    def _connect(self) -> None:
        """Rank 0 listens; every other rank tries to connect until it succeeds."""
        if self._rank == 0:
            listener = listen(self._processes)
            self._selector.register(
                listener, selectors.EVENT_READ, lambda: self._accept(listener)
            )
            return
        while not self._closed.is_set():
            if found := connect(self._processes):
                self._add(*found)
                found[0].send()  # from here on it counts as lost if it ends
                return
            time.sleep(BEAT_SECONDS)
            self._beats += 1
            self._wait_for(0)
            if self._beats * BEAT_SECONDS > self._config.start_timeout_seconds:
                self._lose(0, "has not connected")
                return

    def _accept(self, listener: socket.socket) -> None:
        if found := accept(listener, self._processes):
            self._add(*found)

    def _add(self, connection: Connection, hello: dict[str, Any]) -> None:
        peer = _Peer(connection, hello)
        self._peers[peer.rank] = peer
        if self._rank != 0 or len(self._peers) == self._processes.count - 1:
            self._connected.set()
        self._selector.register(
            connection, selectors.EVENT_READ, lambda: self._receive(peer)
        )

    def _receive(self, peer: _Peer) -> None:
        peer.silent = 0
        greeted, peer.greeted = peer.greeted, True
        try:
            messages = peer.connection.receive()
        except (OSError, ValueError):
            messages = None
        for message in messages or ():
            if "lost" in message:
                self._end(message["lost"])
            if "failed" in message:
                self._lose(peer.rank, f"has failed: {message['failed']}", peer.place)
            peer.closed |= "closed" in message
        if messages is None or peer.closed:
            self._selector.unregister(peer.connection)
            peer.connection.close()
            if self._peers.get(peer.rank) is peer:
                del self._peers[peer.rank]
            if self._rank == 0 and not greeted and not peer.closed:
                pass  # it gave up waiting for an answer, and connects again
            elif not peer.closed:
                self._lose(peer.rank, "has ended", peer.place)
                if peer.rank == 0 and self._record is None:
                    self._leave()  # at once: JAX would soon abort during start-up
            elif self._rank != 0 and not self._lost.is_set():
                self._closed.set()  # rank 0 disconnects last

    def _beat(self) -> None:
        self._beats += 1
        for peer in list(self._peers.values()):
            peer.connection.send()
            peer.silent += 1
            seconds = self._config.timeout_seconds
            if peer.silent * BEAT_SECONDS > seconds:
                how = f"has sent no heartbeat for {seconds:g} s"
                self._lose(peer.rank, how, peer.place)
        if self._rank != 0:
            return
        start = self._config.start_timeout_seconds
        if not self._connected.is_set():
            missing = min(set(range(1, self._processes.count)) - self._peers.keys())
            self._wait_for(missing)
            if self._beats * BEAT_SECONDS > start:
                self._lose(missing, f"has not connected within {start:g} s")
        if self._progress.beat():
            self._end(
                "the ranks are deadlocked: no progress for "
                f"{self._progress.allowed_seconds:g} s{self._see('*')}"
            )

    def _wait_for(self, rank: int) -> None:
        """Say so once, on one rank: one that died before connecting is not noticed."""
        due = self._beats * BEAT_SECONDS == NOTICE_SECONDS
        if due and self._rank == (1 if rank == 0 else 0):
            start = self._config.start_timeout_seconds
            print(
                f"waiting for rank {rank} to connect, for up to {start:g} s "
                "(parallel.start_timeout_seconds)",
                file=sys.stderr,
                flush=True,
            )

    def _lose(self, rank: int, how: str, place: str = "") -> None:
        self._end(f"rank {rank}{place} {how}{self._see(rank)}", rank)

    def _see(self, rank: int | str) -> str:
        if self._folder is None:
            return "; it had no log yet"
        return f"; see {self._folder / 'logs' / f'rank{rank}.log'}"

    def _end(self, text: str, lost: int = -1) -> None:
        """Tell the others; the first remaining rank prints it."""
        if self._lost.is_set():
            return
        self._text, self._speaks = text, self._rank == (1 if lost == 0 else 0)
        self._tell(lost=text)
        if lost == 0:  # at once, as JAX aborts without its coordinator
            self._say()
        if LOGGER.handlers:
            frames = sys._current_frames().get(self._main)
            at = "".join(traceback.format_stack(frames)) if frames else ""
            LOGGER.info("stopped: %s; this rank was at\n%s", text, at)
        self._lost.set()

    def _tell(self, **message: str) -> None:
        for peer in list(self._peers.values()):
            peer.connection.send(**message)

    def _say(self) -> None:
        if self._speaks:
            self._speaks = False
            print(f"error: {self._text}", file=sys.stderr, flush=True)

    def _leave(self) -> None:
        self._say()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(LostError.exit_status)
