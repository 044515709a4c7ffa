"""Where the runs of a report happened: every value that any of them had."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from report.analysis.findings import Report
from report.analysis.hardware import commit_name, device_name
from report.analysis.intervals import format_count

GIB = 2**30


def environment_rows(report: Report) -> list[tuple[str, list[str]]]:
    """Name and values, the most frequent first; one value where all runs agree."""
    environments = [run.environment for run in report.runs if run.environment]
    gpus = any(environment["gpus"] for environment in environments)
    names = sorted({name for e in environments for name in e["packages"]})
    packages = [name for name in names if gpus or not name.startswith("nvidia-")]
    rows = {
        "device": device_name,
        "GPUs of the machine": _gpus,
        "GPUs joined by": _links,
        "NVIDIA driver": lambda e: (e["gpus"] or {}).get("driver") or "",
        "processor": lambda e: f"{e['processor']}, {e['cpu_count']} logical cores",
        "memory": lambda e: f"{e['memory_bytes'] / GIB:.0f} GiB",
        "host": lambda e: str(e["host"]),
        "system": lambda e: str(e["platform"]),
        "PyTorch's settings": _settings("torch"),
        "JAX's settings": _settings("jax"),
        "Python": lambda e: str(e["python"]),
        **{name: _package(name) for name in packages},
        "commit": commit_name,
    }
    found = [(name, _values(environments, value)) for name, value in rows.items()]
    return [(name, values) for name, values in found if values]


def commands(report: Report, most: int = 3) -> list[str]:
    """What repeats it: the studies' own commands, or one run's of each framework."""
    if report.studies:
        return [study.command for study in report.studies]
    typed = {
        run.framework: " ".join(map(str, run.environment["command"]))
        for run in report.runs
        if run.environment
    }
    return list(typed.values())[:most]


def _gpus(environment: Mapping[str, Any]) -> str:
    """How many of what, with their power cap and highest clock."""
    forms: dict[str, Callable[[Any], str]] = {
        "name": str,
        "memory_bytes": lambda memory: f"{memory / GIB:.0f} GiB",
        "power_limit_watts": lambda watts: f"power cap {watts:g} W",
        "max_sm_clock_mhz": lambda clock: f"SM clock up to {clock:,} MHz",
    }

    def kind(gpu: Mapping[str, Any]) -> str:
        known = (key for key in forms if gpu[key] is not None)
        return ", ".join(forms[key](gpu[key]) for key in known)

    kinds = Counter(map(kind, (environment["gpus"] or {}).get("gpus", [])))
    return "; ".join(f"{count} × {kind}" for kind, count in kinds.items())


def _links(environment: Mapping[str, Any]) -> str:
    """What joins how many pairs of GPUs, in nvidia-smi's words."""
    links = (environment["gpus"] or {}).get("links", [])
    pairs = Counter(str(link) for n, row in enumerate(links) for link in row[:n])
    found = pairs.most_common()
    return ", ".join(f"{link} ({format_count(count, 'pair')})" for link, count in found)


def _settings(framework: str) -> Callable[[Mapping[str, Any]], str]:
    """What runs of a framework set to make their steps fast."""

    def text(environment: Mapping[str, Any]) -> str:
        if environment["framework"] != framework:
            return ""
        found = environment["framework_settings"].items()
        return ", ".join(f"{n} {_word(v)}" for n, v in found if v is not None)

    return text


def _word(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _package(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda environment: str(environment["packages"].get(name) or "")


def _values(
    environments: list[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    counts = Counter(value(environment) for environment in environments)
    several = len(counts) > 1
    return [
        f"{text} ({format_count(count, 'run')})" if several else text
        for text, count in counts.most_common()
        if text
    ]
