"""Connections between ranks, with messages as lines of JSON.

Rank 0 listens on a port that all ranks can work out; every other rank connects to it.
Both identify themselves, so that other runs' processes and strangers are rejected.
"""

import contextlib
import hashlib
import json
import os
import socket
from typing import Any

from runtime.processes import Processes, port

PORTS_TRIED = 8  # as another run may listen on the first
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # until rank 0 answers; it may still be importing
HELLO_SECONDS = 5.0  # until a new connection has identified itself


class Connection:
    """Sends messages to another rank and receives them; works in a selector."""

    def __init__(self, stream: socket.socket):
        self._socket = stream
        self._rest = b""
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Never blocks: messages to a frozen rank are lost."""
        content = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._socket.send(content, socket.MSG_DONTWAIT)

    def receive(self) -> list[dict[str, Any]] | None:
        """The complete messages that have arrived; None when the connection has ended.

        Raises:
          OSError: if the connection is broken, or nothing arrives in time.
          ValueError: if what arrives is not a message of a rank.
        """
        content = self._socket.recv(1 << 16)
        if not content:
            return None
        *lines, self._rest = (self._rest + content).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not a message of a rank")  # a stranger may send anything
        return messages

    def close(self) -> None:
        self._socket.close()


def listen(processes: Processes) -> socket.socket:
    """Rank 0's listening socket.

    Raises:
      OSError: if every port that was tried is taken.
    """
    host, ports = _host(processes), _ports(processes)
    for number in ports:
        with contextlib.suppress(OSError):
            return _server(processes, number)
    raise OSError(f"no port of {ports[0]} to {ports[-1]} is free on {host}")


def _server(processes: Processes, number: int) -> socket.socket:
    """On loopback for one node, on all interfaces for several.

    Where /etc/hosts maps a node's own name to 127.0.1.1, as Debian's and Ubuntu's does,
    no other node would reach what listens there.
    """
    if processes.one_node:
        return socket.create_server((_host(processes), number), backlog=1024)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be compiled in and disabled
            return socket.create_server(
                ("", number), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
            )
    return socket.create_server(("", number), backlog=1024)


def connect(processes: Processes) -> tuple[Connection, dict[str, Any]] | None:
    """A connection to rank 0 and its greeting; None if it does not listen yet."""
    for number in _ports(processes):
        address = _host(processes), number
        try:
            stream = socket.create_connection(address, CONNECT_SECONDS)
        except OSError:
            continue
        stream.settimeout(ANSWER_SECONDS)
        connection = Connection(stream)
        connection.send(**_hello(processes))
        if hello := _first_message(connection, processes):
            return connection, hello
    return None


def accept(
    listener: socket.socket, processes: Processes
) -> tuple[Connection, dict[str, Any]] | None:
    """A rank that has connected and its greeting; None if it was a stranger."""
    stream, _ = listener.accept()
    stream.settimeout(HELLO_SECONDS)
    connection = Connection(stream)
    if hello := _first_message(connection, processes):
        connection.send(**_hello(processes))
        return connection, hello
    return None


def _first_message(
    connection: Connection, processes: Processes
) -> dict[str, Any] | None:
    """The greeting of a rank of this run; else None, and the connection is closed."""
    with contextlib.suppress(OSError, ValueError):
        messages = connection.receive()
        if messages and messages[0].get("token") == _token(processes):
            return messages[0]
    connection.close()
    return None


def _hello(processes: Processes) -> dict[str, Any]:
    place = {"process": os.getpid(), "host": socket.gethostname()}
    return {"token": _token(processes), "rank": processes.rank, **place}


def _token(processes: Processes) -> str:
    """What only the processes of one run know."""
    text = repr([processes.coordinator, processes.launch, processes.restart])
    return hashlib.sha256(text.encode()).hexdigest()


def _host(processes: Processes) -> str:
    return processes.coordinator.rpartition(":")[0]


def _ports(processes: Processes) -> list[int]:
    taken = int(processes.coordinator.rpartition(":")[2])  # JAX's own
    first = int(_token(processes)[:8], 16)
    return [p for k in range(PORTS_TRIED) if (p := port(first + k)) != taken]
