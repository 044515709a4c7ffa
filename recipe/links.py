"""Links of a chosen bandwidth between the processes of a run, as numbers.

Each process of a run is a host of its own, joined to a switch by one link; both ends of
the link are limited alike, so that it carries its bandwidth in either direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.errors import ConfigError, RecordError
from recipe.strategies import IN_ROUNDS

UNLIMITED = "unlimited"  # in place of Mbit/s: a link without a limit
FILE = "link.json"  # in the folder of a run over links
PORT = "port"  # the interface of each host
# Set, so that it is the same on every machine; Linux allows this one in every network
# namespace, whatever else it allows.
CONGESTION = "reno"
# Of the asked bandwidth, what a plain TCP transfer has to reach. Ethernet, IP and TCP
# headers are 4.4 % of full packets; what is above it passed in a burst.
LEAST, MOST = 0.90, 1.05
# Ethernet, IPv4, and TCP with time stamps; a packet of 64 KB that the kernel has not
# yet cut has one.
HEADER_BYTES = 14 + 20 + 32


def check_links(bandwidths: list[int | str], strategies: list[str]) -> None:
    """Refuse values of `study.bandwidth_mbit`, and of `study.parallel` beside it.

    Raises:
      ConfigError: saying what is allowed.
    """
    for value in bandwidths:
        if value != UNLIMITED and (isinstance(value, str) or value < 1):
            raise ConfigError(
                f"study.bandwidth_mbit={value} must be a whole number of Mbit/s, from "
                f"1 on, or {UNLIMITED}"
            )
    for value in strategies:
        if value in IN_ROUNDS:
            raise ConfigError(
                f"study.parallel={value} with study.bandwidth_mbit: how many steps a "
                f"run takes depends on its rounds; write {value}@64 for one every 64 "
                "steps"
            )
        if value.partition("@")[0] not in ("dp", *IN_ROUNDS):
            raise ConfigError(
                f"study.parallel={value} with study.bandwidth_mbit: what it sends is "
                f"not counted; of: dp, {', '.join(f'{n}@64' for n in IN_ROUNDS)}"
            )


def check_beside_links(
    world_sizes: list[int],
    timed_seconds: float | None,
    ablations: Mapping[str, list[bool]],
) -> None:
    """Refuse values of other keys of `study` beside `study.bandwidth_mbit`.

    Raises:
      ConfigError: saying what is allowed.
    """
    if min(world_sizes) < 2:
        raise ConfigError(
            f"study.world_size={world_sizes} with study.bandwidth_mbit: one process "
            "has no link; use world sizes from 2 on"
        )
    if timed_seconds is not None:
        raise ConfigError(
            f"study.timed_seconds={timed_seconds:g} with study.bandwidth_mbit: only "
            "windows of the training have whole exchanges; set it to null"
        )
    for axis, values in ablations.items():
        if False in values:
            raise ConfigError(
                f"study.{axis}={str(values).lower()} with study.bandwidth_mbit: a step "
                "without one of its parts is an ablation; leave it at [true]"
            )


def burst_bytes(mbit: int) -> int:
    """What may pass at once: one uncut packet, or 2 ms at the link's bandwidth.

    >>> burst_bytes(10), burst_bytes(1000)
    (70000, 250000)
    """
    return max(70_000, mbit * 250)


def queue_bytes(mbit: int) -> int:
    """What waits at most before packets are dropped: four bursts, and 50 ms.

    >>> queue_bytes(100)
    905000
    """
    return 4 * burst_bytes(mbit) + mbit * 6_250


def host_name(rank: int) -> str:
    return f"duet-{rank}"


def address(rank: int) -> str:
    """Of the host of a rank; only the study's own namespaces know it."""
    return f"10.77.{rank // 250}.{rank % 250 + 1}"


def hosts_file(hosts: int) -> str:
    """/etc/hosts of each.

    >>> print(hosts_file(2), end="")
    127.0.0.1 localhost
    10.77.0.1 duet-0
    10.77.0.2 duet-1
    """
    lines = [f"{address(rank)} {host_name(rank)}" for rank in range(hosts)]
    return "\n".join(["127.0.0.1 localhost", *lines, ""])


def fault(rank: int, asked: int | str, measured: float) -> str:
    """What is wrong with a measured link; empty if it may be used.

    Args:
      asked, measured: Mbit/s, the first perhaps `unlimited`.

    >>> fault(0, 100, 95.6), fault(0, "unlimited", 8e3)
    ('', '')
    """
    if asked == UNLIMITED or LEAST <= measured / float(asked) <= MOST:
        return ""
    return (
        f"the link of {host_name(rank)} was limited to {asked} Mbit/s and carried "
        f"{measured:.4g}, expected {LEAST:.0%} to {MOST:.0%} of that; end what else "
        "uses this machine's cores, or take a bandwidth that it can carry"
    )


@dataclass(frozen=True)
class Sent:
    """An interface's counters of what it sent."""

    bytes: int
    packets: int

    @property
    def payload(self) -> int:
        """Without headers: acknowledgements alone have none.

        >>> Sent(2 * 66 + 1000, 2).payload
        1000
        """
        return self.bytes - HEADER_BYTES * self.packets


def sent(counters: str, interface: str = PORT) -> Sent:
    """What an interface has sent.

    Args:
      counters: the content of /proc/net/dev.

    Raises:
      RecordError: if it has no such interface.
    """
    for line in counters.splitlines():
        name, colon, numbers = line.partition(":")
        if colon and name.strip() == interface:
            columns = numbers.split()
            return Sent(int(columns[8]), int(columns[9]))
    raise RecordError(f"/proc/net/dev has no interface {interface}")


def counters(process: int) -> Sent:
    """What a process's host has sent over its link."""
    return sent(Path(f"/proc/{process}/net/dev").read_text())


def exchanged_bytes(nbytes: float, world_size: int, rounds: float = 1) -> float:
    """What each rank sends for so many all-reduces around a ring.

    Args:
      nbytes: of what is reduced.

    Source: as `report.analysis.projection.ring_seconds`.

    >>> exchanged_bytes(1000, 2), exchanged_bytes(1000, 4, rounds=2)
    (1000.0, 3000.0)
    """
    return 2 * (world_size - 1) / world_size * nbytes * rounds
