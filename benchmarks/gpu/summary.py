"""The summary of `make gpu` in Markdown, readable whenever the command ends."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recipe.config import leaves

# States of a part, and of a check beside those of `benchmarks/gpu/checks.py`.
NEVER, RUNNING, ENDED = "never began", "running", "ended"
FAILED, CUT_OFF = "failed", "cut off"

# What the table of the part `speed` shows: key -> heading, and its format.
SPEED = {
    "images_per_second": ("images/s", ",.4g"),
    "step_ms": ("step, ms", ".3g"),
    "host_ms": ("host: issue, ms", ".3g"),
    "data_ms": ("host: data, ms", ".3g"),
    "idle_fraction": ("GPU idle", ".2f"),
    "mfu": ("MFU", ".3f"),
    "compile_seconds": ("compile, s", ".1f"),
    "peak_memory_bytes": ("peak memory, bytes", ".3g"),
}


def summary(head: str, state: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The whole text.

    Args:
      head: its first lines.
      state: of the whole: RUNNING, or how it ended.
      records: of each part, as `benchmarks/gpu/run.py` makes them.
    """
    said = state
    if state == RUNNING:
        said = "running; if no process is, it was killed in the part that says so"
    lines = [head, "", f"State: {said}.", "", *_overview(records)]
    for record in records:
        if record["state"] in (FAILED, CUT_OFF):
            lines += ["", f"## {record['part']}: {record['state']}", ""]
            lines += [f"{record['why']}. The end of its output:", "", "```text"]
            lines += [*(record["output"] or ["it printed nothing"]), "```"]
    for record in records:
        if checks := record.get("checks"):
            lines += ["", f"## {record['title']}", ""]
            speed = record["part"] == "speed"
            lines += _table(checks) if speed else map(_line, checks, checks.values())
    return "\n".join(lines) + "\n"


def _overview(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| part | state | seconds | of at most | checks |"
    yield "|---|---|---|---|---|"
    for record in records:
        counts = Counter(c["status"] for c in record.get("checks", {}).values())
        checks = ", ".join(f"{count} {status}" for status, count in counts.items())
        times = (record.get(key) for key in ("seconds", "limit_seconds"))
        seconds = " | ".join("–" if t is None else f"{t:.0f}" for t in times)
        why = f" ({record['why']})" if record["why"] else ""
        yield f"| {record['part']} | {record['state']}{why} | {seconds} | {checks} |"


def _line(name: str, check: dict[str, Any]) -> str:
    facts = dict(leaves(check))
    status, why = facts.pop("status"), facts.pop("why", None)
    rest = [f"{key} {_short(value)}" for key, value in facts.items()]
    reason = [" ".join(str(why).split())] if why else []
    return f"- **{name}: {status}**. " + "; ".join([*reason, *rest])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(checks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    heads = [head for head, _ in SPEED.values()]
    yield f"| run | status | {' | '.join(heads)} |"
    yield "|---" * (2 + len(heads)) + "|"
    for name, check in checks.items():
        cells = [
            "–" if check.get(key) is None else format(check[key], form)
            for key, (_, form) in SPEED.items()
        ]
        yield f"| {name} | {check['status']} | {' | '.join(cells)} |"
    for name, check in checks.items():
        if check.get("why"):
            yield f"\n{name}: {' '.join(str(check['why']).split())}"
