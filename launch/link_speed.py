"""A plain TCP transfer between two network namespaces, to measure the link."""

import ctypes
import os
import socket
import threading
import time

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
SECONDS = 1.0  # of a transfer
SKIPPED = 0.3  # of these, until a burst has passed and TCP has found its speed
BUFFER = 1 << 19  # bytes; a sender's larger buffer would take seconds at 10 Mbit/s
TIMEOUT = 30.0  # seconds without a byte


def socket_of(process: int) -> socket.socket:
    """A TCP socket in the network namespace of a process; it stays there."""
    own, other = "/proc/thread-self/ns/net", f"/proc/{process}/ns/net"
    with open(own) as back, open(other) as there:
        _enter(there.fileno())
        try:
            made = socket.socket()
        finally:
            _enter(back.fileno())
    made.settimeout(TIMEOUT)
    return made


def _enter(namespace: int) -> None:
    """Move this thread there (os.setns came with Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def transfer_mbit(sender: int, receiver: int, address: str) -> float:
    """Mbit/s of payload from one process's network namespace to another's.

    Args:
      sender, receiver: processes in them.
      address: the receiver's.
    """
    with socket_of(receiver) as listener, socket_of(sender) as out:
        listener.bind((address, 0))
        listener.listen()
        out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        out.connect(listener.getsockname())
        arriving, _ = listener.accept()
        with arriving:
            arriving.settimeout(TIMEOUT)
            sending = threading.Thread(target=_send, args=(out,))
            sending.start()
            try:
                return _received_mbit(arriving)
            finally:
                sending.join()


def _send(out: socket.socket) -> None:
    content, end = bytes(BUFFER // 8), time.monotonic() + SECONDS
    while time.monotonic() < end:
        out.sendall(content)
    out.shutdown(socket.SHUT_WR)


def _received_mbit(arriving: socket.socket) -> float:
    buffer = bytearray(BUFFER)
    begin = time.perf_counter()
    first, last, count = 0.0, 0.0, 0
    while size := arriving.recv_into(buffer):
        last = time.perf_counter()
        if first:
            count += size
        elif last - begin >= SKIPPED:
            first = last
    return 8e-6 * count / (last - first) if last > first else 0.0
