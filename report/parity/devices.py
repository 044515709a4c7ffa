"""What the devices of runs are called, and whether compared runs had different ones."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

SEVERAL = " and "  # between kinds of device


def device_name(environment: Mapping[str, Any]) -> str:
    """What a device is: "NVIDIA H100 1" and "NVIDIA H100 0" are the same.

    >>> device_name({"devices": ["A 0", "B 1", "A 2"], "processor": "C"})
    'A and B'
    """
    names = {re.sub(r"[ :]\d+$", "", str(name)) for name in environment["devices"]}
    kinds = {
        environment["processor"] if name.lower().startswith("cpu") else name
        for name in names
    }
    return SEVERAL.join(sorted(kinds)) or "unknown"


def devices_differ(environments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence where runs had devices of different kinds, else none.

    Args:
      environments: each run's environment.json, by its label.

    >>> a, b = ({"devices": [name], "processor": "CPU"} for name in ("cpu", "H100 0"))
    >>> devices_differ({"jax": a, "torch": b})[0].partition(";")[0]
    'the devices differ: CPU (jax), H100 (torch)'
    >>> devices_differ({"jax": a, "torch": a})
    []
    """
    labels: dict[str, list[str]] = defaultdict(list)
    for label, environment in environments.items():
        labels[device_name(environment)].append(label)
    if len(labels) < 2:
        return []
    kinds = ", ".join(f"{kind} ({', '.join(who)})" for kind, who in labels.items())
    return [
        f"the devices differ: {kinds}; so their rounding differs, and their speeds "
        "say nothing of the frameworks"
    ]
