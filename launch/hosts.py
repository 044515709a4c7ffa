"""Hosts that are network namespaces, joined to a switch by links of a bandwidth.

Each has a virtual Ethernet device to one switch, both ends of it limited by Linux's
token bucket filter, and a host name with an address on it. No namespace has a name: all
are held by processes in one PID namespace, and when its first process ends, whatever
ended it, so do they all, and with them their devices.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from recipe.errors import DuetError
from recipe.links import (
    CONGESTION,
    PORT,
    UNLIMITED,
    address,
    burst_bytes,
    host_name,
    hosts_file,
    queue_bytes,
)

NEEDED = ("ip", "tc", "unshare", "nsenter", "setpriv")
# How a command line begins that is to be the first process of all these namespaces.
NAMESPACES = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL"),
    "--mount-proc",
)
SWITCH = "switch"
PREFIX = 16  # bits of the network
HOST = (
    'hostname "$0" && echo "$1" >/proc/sys/net/ipv4/tcp_congestion_control && echo up'
)
# What a machine has to be able to do; limits and addresses are set in the same way.
PROBE = f"""
ip link add {SWITCH} type bridge && ip link add to-0 type veth peer name {PORT} &&
ip link set to-0 master {SWITCH} up && tc qdisc add dev {PORT} root tbf {{limit}} &&
echo {CONGESTION} >/proc/sys/net/ipv4/tcp_congestion_control
"""


def why_not() -> str:
    """Why this machine can make no links; empty if it can."""
    if os.geteuid() != 0:
        return "links need root, for network namespaces"
    if missing := [name for name in NEEDED if shutil.which(name, path=path()) is None]:
        return f"links need iproute2 and util-linux; missing: {', '.join(missing)}"
    script = PROBE.format(limit=" ".join(_limit(10)))
    probe = subprocess.run(
        [*NAMESPACES, "sh", "-c", script],
        env=os.environ | {"PATH": path()},
        capture_output=True,
        text=True,
    )
    if probe.returncode == 0:
        return ""
    said = probe.stderr.strip().partition("\n")[0] or "nothing"
    return f"links need namespaces, veth, bridge and tbf in the kernel; it says: {said}"


def path() -> str:
    """PATH, with the folders of system tools."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def _limit(mbit: int) -> list[str]:
    limits = {"burst": burst_bytes(mbit), "limit": queue_bytes(mbit)}
    return ["rate", f"{mbit}mbit", *(str(w) for pair in limits.items() for w in pair)]


@dataclass(frozen=True)
class Host:
    """A network namespace and a host name, as long as its process sleeps."""

    rank: int
    process: subprocess.Popen[str]

    @property
    def enter(self) -> list[str]:
        """How a command line begins that runs there."""
        return ["nsenter", f"--target={self.process.pid}", "--net", "--uts"]


def make_hosts(count: int, mbit: int | str) -> list[Host]:
    """The switch and its hosts; to be called by the first process of `NAMESPACES`.

    Args:
      mbit: of each link, or `unlimited`.

    Raises:
      DuetError: if they cannot be made.
    """
    _do("ip", "link", "add", SWITCH, "type", "bridge")
    _do("ip", "link", "set", SWITCH, "up")
    with tempfile.NamedTemporaryFile("w", prefix="duet-hosts-") as hosts:
        hosts.write(hosts_file(count))
        hosts.flush()
        os.chmod(hosts.name, 0o644)
        _do("mount", "--bind", hosts.name, "/etc/hosts")  # lives on without its name
    return [_make_host(rank, mbit) for rank in range(count)]


def _make_host(rank: int, mbit: int | str) -> Host:
    holder = subprocess.Popen(
        ["unshare", "--net", "--uts", "sh", "-c", f"{HOST} && exec sleep infinity"]
        + [host_name(rank), CONGESTION],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    if holder.stdout.readline() != "up\n":
        raise DuetError(f"{host_name(rank)} cannot be made; the lines above say why")
    host, far = Host(rank, holder), f"to-{rank}"
    own = f"{address(rank)}/{PREFIX}"
    peer = ("peer", "name", PORT, "netns", str(holder.pid))
    _do("ip", "link", "add", far, "type", "veth", *peer)
    _do("ip", "link", "set", far, "master", SWITCH, "up")
    _do(*host.enter, "ip", "address", "add", own, "dev", PORT)
    for device in PORT, "lo":
        _do(*host.enter, "ip", "link", "set", device, "up")
    if mbit != UNLIMITED:
        for enter, device in (host.enter, PORT), ((), far):
            limit = ("root", "tbf", *_limit(int(mbit)))
            _do(*enter, "tc", "qdisc", "add", "dev", device, *limit)
    return host


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise DuetError(f"{' '.join(words)} says: {done.stderr.strip() or 'nothing'}")
