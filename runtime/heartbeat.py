"""Whether the ranks still live: one that dies or freezes is named, and all end.

Each rank beyond the first keeps a connection to rank 0, and signs of life go over it
both ways. A connection that ends without a farewell is a death, known at once; silence
is a freeze; and where all live but no window ends, they wait for each other. Whoever
notices tells the others. It works before a framework has been imported, and where one
waits inside a collective, from which no other thread can fetch it: so a process that
does not come back by itself in a few seconds is left from here.
"""

import contextlib
import hashlib
import json
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
from runtime.processes import Processes, port

LOGGER = logging.getLogger("duet")

BEAT = 0.5  # seconds between two signs of life
# A collective's own error may come before the news of whom it has lost, in seconds.
NEWS = 3.0
# What a process may take to leave by itself, once its collective has given up.
GRACE, FAREWELL = 5.0, 150.0
# Until a rank that has not come is waited for aloud, in seconds.
PATIENCE = 20.0
# Ports to try, as another run may listen on the first.
PORTS = 8


class Heartbeat:
    """Watches over the ranks of a run, a context manager around all of it.

    Time is counted in beats of this process's own: one that was suspended together
    with all others, or whose clock was set, blames nobody.

    Args:
      processes: this one's place among them; where it is alone there is no watch.
      config: how long a rank may be silent, and a window take.
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
        self._met = threading.Event()
        self._allowed, self._still, self._longest = config.start_timeout_seconds, 0, 0
        self._text, self._speaks, self._waited = "", False, False
        self._lost, self._returned = threading.Event(), threading.Event()
        self._parted = threading.Event()

    def __enter__(self) -> Self:
        if self._processes.count > 1:
            self._thread.start()
        return self

    def watch(self, folder: Path) -> None:
        """Logs are in the run folder from now on."""
        self._folder = folder

    def meet(self) -> None:
        """Wait until all ranks watch over each other; whoever is lost then is named."""
        if self._processes.count > 1:
            self._met.wait()

    def progress(self, slow: bool = False) -> None:
        """Note that the ranks have come to a point together.

        Args:
          slow: whether what follows may take as long as a start.
        """
        self._longest = max(self._longest, 0 if self._allowed_long() else self._still)
        self._still = 0
        seconds = self._config.timeout_seconds, 10 * BEAT * self._longest
        start = self._config.start_timeout_seconds
        self._allowed = start if slow else min(start, max(seconds))

    def _allowed_long(self) -> bool:
        return self._allowed == self._config.start_timeout_seconds

    @contextlib.contextmanager
    def over(self, record: Callable[[str], object]) -> Iterator[None]:
        """Name the lost rank where a collective only knows that it failed.

        Args:
          record: told why the run ends, should its main thread never return.

        Raises:
          LostError: in place of whatever another rank's end has brought about.
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

    def part(self) -> None:
        """Leave in good order, as all ranks do; nobody is missed from here on."""
        self._parted.set()
        if self._thread.is_alive():
            self._thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._processes.count == 1 or self._parted.is_set() or error is None:
            self.part()
            return
        self._returned.set()
        if isinstance(error, DuetError) and not isinstance(error, LostError):
            self._tell(failed=str(error))
            return  # `launch/cli.py` says it, and ends the process
        # The others wait in collectives, and so would the clean-up of either framework
        # at the interpreter's end.
        if not self._lost_in_time():
            traceback.print_exception(error)
            self._tell(failed=f"{type(error).__name__}: {error}")
        self._leave()

    def _lost_in_time(self) -> bool:
        """Whether another rank's end may be why this one failed; waits for it once."""
        if self._waited or self._processes.count == 1:
            return self._lost.is_set()
        self._waited = True
        return self._lost.wait(NEWS)

    # The rest is the thread's

    def _watch(self) -> None:
        try:
            self._meet()
            following = time.monotonic()
            while not self._parted.is_set() and not self._lost.is_set():
                for key, _ in self._selector.select(timeout=BEAT / 5):
                    key.data()
                if time.monotonic() >= following:
                    following = time.monotonic() + BEAT
                    self._beat()
            if not self._lost.is_set():
                for peer in self._peers.values():
                    peer.send(part=True)
        except Exception as error:  # what watches must not be what ends a run
            LOGGER.warning("the ranks are no longer watched: %s", error)
        finally:
            self._met.set()  # unwatched, too, a run goes on
            for key in list(self._selector.get_map().values()):
                key.fileobj.close()  # pyright: ignore[reportAttributeAccessIssue]
        if self._lost.is_set():
            self._returned.wait(GRACE)
            if self._returned.is_set():
                time.sleep(FAREWELL)
            elif self._record is not None:
                self._record(self._text)
            self._leave()

    def _meet(self) -> None:
        """Rank 0 listens; every other rank looks for it until it is found."""
        host = self._processes.coordinator.rpartition(":")[0]
        if self._rank == 0:
            listener = _listener(host, self._ports())
            self._selector.register(
                listener, selectors.EVENT_READ, lambda: self._accept(listener)
            )
            return
        while not self._parted.is_set():
            for number in self._ports():
                with contextlib.suppress(OSError, ValueError):
                    peer = _Peer(socket.create_connection((host, number), 5))
                    peer.socket.settimeout(60)  # rank 0 may be importing
                    peer.send(**self._hello())
                    answers = peer.receive()
                    if answers and answers[0].get("token") == self._token():
                        self._keep(peer, answers[0])
                        peer.send()  # from here on it would be missed
                        return
                    peer.socket.close()
            time.sleep(BEAT)
            self._beats += 1
            self._wait_for(0)
            if self._beats * BEAT > self._config.start_timeout_seconds:
                self._lose(0, "has not come")
                return

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(5)  # a stranger may say nothing
        peer = _Peer(connection)
        with contextlib.suppress(OSError, ValueError):
            hello = peer.receive()
            if hello and hello[0].get("token") == self._token():
                peer.send(**self._hello())
                self._keep(peer, hello[0])
                return
        connection.close()  # another run's, or a stranger's

    def _keep(self, peer: "_Peer", hello: dict[str, Any]) -> None:
        peer.rank = hello["rank"]
        peer.place = f" (process {hello['process']} on {hello['host']})"
        self._peers[peer.rank] = peer
        if self._rank != 0 or len(self._peers) == self._processes.count - 1:
            self._met.set()
        self._selector.register(
            peer.socket, selectors.EVENT_READ, lambda: self._hear(peer)
        )

    def _hear(self, peer: "_Peer") -> None:
        peer.silent = 0
        greeted, peer.greeted = peer.greeted, True
        try:
            messages = peer.receive()
        except (OSError, ValueError):
            messages = None
        for message in messages or ():
            if "lost" in message:
                self._end(message["lost"])
            if "failed" in message:
                self._lose(peer.rank, f"has failed: {message['failed']}", peer.place)
            peer.parted |= "part" in message
        if messages is None or peer.parted:
            self._selector.unregister(peer.socket)
            peer.socket.close()
            if self._peers.get(peer.rank) is peer:
                del self._peers[peer.rank]
            if self._rank == 0 and not greeted and not peer.parted:
                pass  # it has given up waiting for an answer, and asks again
            elif not peer.parted:
                self._lose(peer.rank, "has ended", peer.place)
                if peer.rank == 0 and self._record is None:
                    self._leave()  # in start-up JAX would abort before GRACE is over
            elif self._rank != 0 and not self._lost.is_set():
                self._parted.set()  # rank 0 leaves when all do

    def _beat(self) -> None:
        self._beats += 1
        self._still += 1
        for peer in list(self._peers.values()):
            peer.send()
            peer.silent += 1
            seconds = self._config.timeout_seconds
            if peer.silent * BEAT > seconds:
                said = f"has given no sign of life for {seconds:g} s"
                self._lose(peer.rank, said, peer.place)
        if self._rank != 0:
            return
        start = self._config.start_timeout_seconds
        if not self._met.is_set():
            missing = min(set(range(1, self._processes.count)) - self._peers.keys())
            self._wait_for(missing)
            if self._beats * BEAT > start:
                self._lose(missing, f"has not come within {start:g} s")
        if self._still * BEAT > self._allowed:
            self._end(
                f"the ranks wait for each other: nothing was done for "
                f"{self._allowed:g} s{self._see('*')}"
            )

    def _wait_for(self, rank: int) -> None:
        """Say so once, on one rank: one that died before they met is not missed."""
        if self._rank == (1 if rank == 0 else 0) and self._beats * BEAT == PATIENCE:
            start = self._config.start_timeout_seconds
            print(
                f"waiting for rank {rank} to come, for up to {start:g} s "
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
        """Tell the others; the first rank that is left is the one to say it."""
        if self._lost.is_set():
            return
        self._text, self._speaks = text, self._rank == (1 if lost == 0 else 0)
        self._tell(lost=text)
        if lost == 0:  # at once, as JAX aborts what has lost its coordinator
            self._say()
        if LOGGER.handlers:
            frames = sys._current_frames().get(self._main)
            at = "".join(traceback.format_stack(frames)) if frames else ""
            LOGGER.info("stopped: %s; this rank was at\n%s", text, at)
        self._lost.set()

    def _tell(self, **message: str) -> None:
        for peer in list(self._peers.values()):
            peer.send(**message)

    def _say(self) -> None:
        if self._speaks:
            self._speaks = False
            print(f"error: {self._text}", file=sys.stderr, flush=True)

    def _leave(self) -> None:
        self._say()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(LostError.exit_status)

    def _hello(self) -> dict[str, Any]:
        place = {"process": os.getpid(), "host": socket.gethostname()}
        return {"token": self._token(), "rank": self._rank, **place}

    def _token(self) -> str:
        """What the processes of one run know of each other."""
        run = self._processes.launch, self._processes.restart
        text = repr([self._processes.coordinator, *run])
        return hashlib.sha256(text.encode()).hexdigest()

    def _ports(self) -> list[int]:
        taken = int(self._processes.coordinator.rpartition(":")[2])  # JAX's own
        first = int(self._token()[:8], 16)
        return [p for k in range(PORTS) if (p := port(first + k)) != taken]


class _Peer:
    """The connection to another rank; each message is a line of JSON."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self.rank, self.place = -1, ""
        self.silent = 0  # beats
        self.parted = False
        self.greeted = False  # whether it has spoken since the first message
        self._rest = b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, **message: Any) -> None:
        """Never waits: to one that is frozen, messages are lost."""
        content = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            self.socket.send(content, socket.MSG_DONTWAIT)

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come whole; None at the connection's end."""
        content = self.socket.recv(1 << 16)
        if not content:
            return None
        *lines, self._rest = (self._rest + content).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("no message of a rank's")  # a stranger may say anything
        return messages


def _listener(host: str, ports: list[int]) -> socket.socket:
    for number in ports:
        with contextlib.suppress(OSError):
            return socket.create_server((host, number), backlog=1024)
    raise OSError(f"no port of {ports[0]} to {ports[-1]} is free on {host}")
