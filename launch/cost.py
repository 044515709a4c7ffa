"""What a study may cost, and what it probably will, once some runs have finished."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.cluster import Work
from recipe.cluster import ClusterConfig

PARITY = "parity"  # prefix of the checks' names


def nodes_of(work: Work, cluster: ClusterConfig) -> int:
    """Number of nodes of a work; this machine is one."""
    return 1 if cluster.name == "local" else cluster.nodes(work.tasks)


def at_most(works: Sequence[Work], cluster: ClusterConfig) -> str:
    """The cost if each takes all of `cluster.minutes`."""
    minutes = f"cluster.minutes={cluster.minutes}"
    hours = dict.fromkeys((work.name for work in works), cluster.minutes / 60)
    cost = _hours(works, cluster, hours)
    if cluster.name == "local":
        return (
            f"each is ended after {minutes}, so the upper limit, not the expected "
            f"time, is {cost}"
        )
    return f"at most {cost}; {minutes} each"


def seconds_taken(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each finished work, as far as cells.jsonl has them."""
    return {
        row["name"]: row["seconds"]
        for row in rows
        if row["status"] != "failed" and row.get("seconds")
    }


def likely(
    missing: Sequence[Work],
    works: Iterable[Work],
    seconds: Mapping[str, float],
    cluster: ClusterConfig,
) -> str:
    """The probable remaining cost, from finished runs; empty without any.

    A repeat is assumed to take the median of its configuration's others; without any,
    of the runs on as many devices; without any, of all. Parity checks do not count.

    Args:
      seconds: of each, by name.
    """
    finished = [w for w in works if w.name in seconds and not is_parity(w.name)]
    if not missing or not finished:
        return ""
    hours = {}
    for work in missing:
        alike = (
            [other for other in finished if _point(other) == _point(work)]
            or [other for other in finished if other.devices == work.devices]
            or finished
        )
        hours[work.name] = statistics.median(seconds[o.name] for o in alike) / 3600
    runs = "1 run" if len(finished) == 1 else f"{len(finished)} runs"
    return f"likely {_hours(missing, cluster, hours)}, by {runs} that finished"


def _hours(
    works: Sequence[Work], cluster: ClusterConfig, hours: Mapping[str, float]
) -> str:
    devices = sum(work.devices * hours[work.name] for work in works)
    nodes = sum(nodes_of(work, cluster) * hours[work.name] for work in works)
    if cluster.name == "local":
        each = f"{_number(devices)} device-hours"
        return f"{_number(nodes)} hours, one at a time ({each})"
    if not cluster.exclusive:
        return f"{_number(devices)} device-hours, on nodes that others may share"
    held = nodes * cluster.devices_per_node
    return (
        f"{_number(devices)} device-hours at work, {_number(nodes)} node-hours of "
        f"whole nodes (cluster.exclusive=true), whose devices are {_number(held)} "
        "device-hours"
    )


def _number(hours: float) -> str:
    """Hours, readably rounded.

    >>> _number(1234.56), _number(0.0123)
    ('1,234.6', '0.012')
    """
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2g}"


def is_parity(name: str) -> bool:
    """Whether a work is a parity check."""
    return name.startswith(f"{PARITY}-")


def _point(work: Work) -> str:
    """The configuration of a run, without the repeat."""
    return work.name.rpartition("-")[0]
