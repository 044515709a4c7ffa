"""docs/reliability.md and docs/reliability.json: what was seen of every fault."""

import json
from pathlib import Path
from typing import Any

BEGIN = "<!-- seen: `make faults` writes what is between these marks -->"
END = "<!-- seen: end -->"
FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX"}


def write_page(docs: Path, report: dict[str, Any]) -> None:
    """Both files, and a line on the screen for each.

    Args:
      docs: their folder, in which the page is already.
      report: processor, cores, packages by name, and faults: of each its name, what is
        promised, and for each framework the commit, whether it was kept and what was
        seen (`tests/faults/rows.py`), empty where it was not run.

    Raises:
      ValueError: if the page has not the two marks, once each and in order.
    """
    page, details = docs / "reliability.md", docs / "reliability.json"
    text = with_table(page.read_text(), table(report))
    details.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    page.write_text(text)
    for file in page, details:
        print(f"written: {file.parent.name}/{file.name}")


def with_table(page: str, text: str) -> str:
    """The page with this text between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or page.count(BEGIN) > 1 or page.count(END) > 1:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}, once each")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def table(report: dict[str, Any]) -> str:
    """Markdown: where it ran, and a row for each fault."""
    faults = report["faults"]
    found = [fault[framework] for fault in faults for framework in FRAMEWORKS]
    commits = " and ".join(sorted({seen["commit"] for seen in found if seen}))
    packages = ", ".join(f"{name} {v}" for name, v in report["packages"].items())
    machine = f"{report['processor']}, {report['cores']} cores"
    lines = [
        f"{machine}, {packages}; commit {commits}.",
        "",
        f"| fault | promise | {' | '.join(FRAMEWORKS.values())} |",
        "|---" * (2 + len(FRAMEWORKS)) + "|",
    ]
    for fault in faults:
        cells = [fault["fault"], fault["promised"]]
        cells += [mark(fault[framework]) for framework in FRAMEWORKS]
        lines.append(f"| {' | '.join(c.replace('|', '/') for c in cells)} |")
    return "\n".join(lines)


def mark(seen: dict[str, Any]) -> str:
    """A promise that was kept or broken, and how long the run with the fault took.

    >>> mark({"kept": True, "seconds": 2.3})
    '✓ 2.3 s'
    >>> mark({"kept": False, "seconds": None}), mark({})
    ('✗', 'not run')
    """
    if not seen:
        return "not run"
    took = "" if seen["seconds"] is None else f" {seen['seconds']} s"
    return f"{'✓' if seen['kept'] else '✗'}{took}"
