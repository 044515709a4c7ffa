"""The network interface on which gloo can be reached from other nodes.

gloo listens on the address of the host's name, or with PyTorch on the interface in
GLOO_SOCKET_IFNAME. Debian and Ubuntu map a host's own name to 127.0.1.1, and on some
clusters it does not resolve: then gloo announces loopback, and other nodes wait for it
in vain. NCCL needs no such help, since it skips loopback by itself.

Source: PyTorch, ProcessGroupGloo::createDefaultDevice; NCCL's documentation,
NCCL_SOCKET_IFNAME; pytorch/gloo#367.
"""

import contextlib
import fcntl
import socket
import struct

SIOCGIFADDR = 0x8915  # <linux/sockios.h>
ELSEWHERE = "192.0.2.1"  # of no host (RFC 5737); nothing is sent to it


def gloo_interface(coordinator: str) -> str | None:
    """The interface to set for gloo with several nodes; None: its own choice is right.

    Args:
      coordinator: the host of rank 0, from whose node the default route is taken.
    """
    if is_routable(_address(socket.gethostname())):
        return None
    for host in coordinator, ELSEWHERE:
        found = source_address(host)
        if found is not None and is_routable(found):
            return interface_of(found)
    others = [name for name, own in addresses().items() if is_routable(own)]
    return others[0] if len(others) == 1 else None


def is_routable(address: str | None) -> bool:
    """Whether other nodes may reach an address.

    >>> is_routable("10.1.2.3"), is_routable("127.0.1.1"), is_routable(None)
    (True, False, False)
    """
    return address is not None and not address.startswith("127.")


def source_address(host: str) -> str | None:
    """This host's IPv4 address on the route to another; None without a route."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # of a datagram socket: nothing is sent
            return probe.getsockname()[0]
    except OSError:
        return None


def interface_of(address: str) -> str | None:
    """The interface that has an IPv4 address, where the platform tells; else None."""
    return next((name for name, own in addresses().items() if own == address), None)


def addresses() -> dict[str, str]:
    """The IPv4 address of each interface that has one; empty except on Linux."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):  # it has none
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _address(host: str) -> str | None:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return None
