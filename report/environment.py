"""Where the runs of a report happened: every value that any of them had."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from report.findings import Report
from report.runs import device_name

GIB = 2**30


def environment_rows(report: Report) -> list[tuple[str, list[str]]]:
    """Name and values, the most frequent first; one value where all runs agree."""
    environments = [run.environment for run in report.runs if run.environment]
    packages = sorted({name for e in environments for name in e["packages"]})
    rows = {
        "device": device_name,
        "processor": lambda e: f"{e['processor']}, {e['cpu_count']} logical cores",
        "memory": lambda e: f"{e['memory_bytes'] / GIB:.0f} GiB",
        "host": lambda e: str(e["host"]),
        "system": lambda e: str(e["platform"]),
        "Python": lambda e: str(e["python"]),
        **{name: _package(name) for name in packages},
        "commit": _commit,
    }
    found = [
        (name, _values(environments, value))
        for name, value in rows.items()
        if environments
    ]
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


def _package(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda environment: str(environment["packages"].get(name) or "")


def _commit(environment: Mapping[str, Any]) -> str:
    commit = environment["git_commit"]
    if commit is None:
        return "outside git"
    return f"{commit}{', with local changes' if environment['git_dirty'] else ''}"


def _values(
    environments: list[Mapping[str, Any]],
    value: Callable[[Mapping[str, Any]], str],
) -> list[str]:
    counts = Counter(value(environment) for environment in environments)
    several = len(counts) > 1
    return [
        f"{text} ({count} runs)" if several else text
        for text, count in counts.most_common()
        if text
    ]
