"""How long a GPU was busy, from a profile that `profile=true` writes."""

import gzip
import json
from pathlib import Path
from typing import Any

TORCH = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of what a GPU does


def read_profile(file: Path) -> list[dict[str, Any]]:
    """The events of a trace in Chrome's format, which both frameworks write."""
    with gzip.open(file) as content:
        trace = json.load(content)
    return trace["traceEvents"] if isinstance(trace, dict) else trace


def busy_seconds(events: list[dict[str, Any]]) -> float | None:
    """Seconds in which at least one kernel or copy ran; None if the trace has none.

    In PyTorch's traces they have a category, in XLA's they are on a GPU's streams.
    """
    processes: dict[Any, str] = {}
    threads: dict[Any, str] = {}
    for event in events:
        if event.get("ph") == "M" and event.get("name") == "process_name":
            processes[event["pid"]] = str(event["args"]["name"])
        if event.get("ph") == "M" and event.get("name") == "thread_name":
            threads[event["pid"], event["tid"]] = str(event["args"]["name"])

    def on_gpu(event: dict[str, Any]) -> bool:
        if "/device:GPU" in processes.get(event["pid"], ""):
            return threads.get((event["pid"], event["tid"]), "").startswith("Stream")
        return event.get("cat") in TORCH

    spans = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("ph") == "X" and on_gpu(event)
    )
    microseconds, until = 0.0, float("-inf")
    for begin, end in spans:  # several streams overlap
        microseconds += max(0.0, end - max(begin, until))
        until = max(until, end)
    return microseconds / 1e6 if spans else None
