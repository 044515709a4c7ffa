"""Parity checks -> the measured part of docs/identity.md, and its figure."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from recipe.errors import RecordError
from report.parity.bounds import ALIKE, CONFIDENCE, PASSES

BEGIN = "<!-- measured: `make identity` writes what is between these marks -->"
END = "<!-- measured: end -->"


@dataclass(frozen=True)
class Cell:
    """One parity check of the matrix.

    Args:
      name: its folder's.
      typed: what was typed for `launch/parity.py`.
      verdict: its parity.json; None where it came to none.
      environment: one of its runs' environment.json.
      error: why there is no verdict.
    """

    name: str
    typed: list[str]
    verdict: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    error: str = ""

    @property
    def passes(self) -> bool:
        return self.verdict is not None and self.verdict["verdict"] in PASSES


def measured(cells: list[Cell], figure: str) -> str:
    """Markdown: what ran where, a row for each cell, what failed, and the curves.

    Args:
      figure: the link to what `curves_figure` drew; empty where it drew nothing.
    """
    ran = [cell for cell in cells if cell.verdict is not None]
    parts = [_where(ran), _table(ran)] if ran else []
    parts += [
        f"**`{cell.name}` came to no verdict**: {cell.error}"
        for cell in cells
        if cell.verdict is None
    ]
    if figure:
        parts.append(
            "Loss differences where rounding shows, blue between frameworks, orange "
            "between world sizes; grey is the controls' envelope, black what is "
            f"allowed:\n\n![Differences of the loss by step]({figure})"
        )
    return "\n\n".join(parts)


def _where(ran: list[Cell]) -> str:
    seen = {
        (
            f"{cell.environment['processor']}, {cell.environment['cpu_count']} cores",
            *(
                f"{name} {cell.environment['packages'][name]}"
                for name in ("torch", "jax", "flax")
            ),
            f"commit {str(cell.environment['git_commit'])[:12]}"
            + (", with local changes" if cell.environment["git_dirty"] else ""),
        )
        for cell in ran
        if cell.environment is not None
    }
    lines = []
    for *place, _ in sorted(seen):
        commits = sorted(commit for *other, commit in seen if other == place)
        line = f"{', '.join(place)}; {' and '.join(commits)}."
        lines += [line] if line not in lines else []
    return (
        "Each row is one `launch/parity.py`, as `conf/identity.yaml` has it: the "
        "largest relative difference of any of its comparisons. " + " ".join(lines)
    )


def _table(ran: list[Cell]) -> str:
    head = (
        *("cell", "precision", "steps", "runs compared", "frameworks, step 1"),
        *("any step", "weights", "world sizes, any step", "weights", "verdict"),
    )
    rows = [head, ("---",) * len(head)]
    for cell in ran:
        assert cell.verdict is not None
        comparisons = cell.verdict["comparisons"]
        frameworks, sizes = (
            [c for c in comparisons if c["kind"] == kind]
            for kind in ("frameworks", "world sizes")
        )
        row = [
            *(f"`{cell.name}`", cell.verdict["precision"]),
            *(str(len(comparisons[0]["differences"])), str(len(comparisons))),
            _largest([c["differences"][0] for c in frameworks]),
        ]
        for kind in frameworks, sizes:
            row.append(_largest([d for c in kind for d in c["differences"]]))
            row.append(_largest([d for c in kind for d in c["leaves"].values()]))
        verdict = _message(cell.verdict["verdict"], cell.verdict["decided_by"])
        rows.append((*row, verdict))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _message(verdict: str, decided_by: str) -> str:
    """From which step the test score decided, and by which intervals, if it did."""
    found = re.search(r"; from step (\d+) on.* controls, (.+)$", decided_by)
    if verdict != ALIKE or not found:
        return verdict
    return f"{verdict} from step {found[1]} on ({CONFIDENCE:.0%} interval {found[2]})"


def _largest(values: list[float | str]) -> str:
    """Infinity, which JSON lacks, is its name there."""
    return f"{max(map(float, values)):.1e}" if values else "–"


def curves_figure(path: Path, cells: list[Cell]) -> bool:
    """Draw the loss differences of the cells that controls judged, a panel for each.

    Returns:
      Whether there was any.
    """
    drawn = [c for c in cells if c.verdict and c.verdict["control_losses"] is not None]
    if not drawn:
        return False
    matplotlib.use("agg")
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for panel in panels[len(drawn) :]:
        panel.set_visible(False)
    for panel, cell in zip(panels, drawn, strict=False):
        verdict = cell.verdict
        assert verdict is not None
        control = _floats(verdict["control_losses"])
        steps = np.arange(1, len(control) + 1)
        panel.fill_between(steps, LEAST, np.maximum(control, LEAST), color="0.85")
        for comparison in verdict["comparisons"]:
            colour = "C0" if comparison["kind"] == "frameworks" else "C1"
            curve = np.maximum(_floats(comparison["differences"]), LEAST)
            panel.plot(steps, curve, color=colour, linewidth=0.8)
        allowed = np.min([_floats(c["allowed"]) for c in verdict["comparisons"]], 0)
        panel.plot(steps, allowed, color="black", linewidth=1)
        panel.set_yscale("log")
        panel.set_ylim(LEAST, 10)
        panel.set_title(cell.name, loc="left", fontsize="small", parse_math=False)
    figure.supxlabel("optimizer step", fontsize="small")
    figure.supylabel("relative difference of the loss", fontsize="small")
    figure.savefig(path)
    return True


LEAST = float(np.finfo(np.float32).eps) / 8  # equal losses lie on the lower edge


def _floats(values: list[float | str]) -> np.ndarray:
    return np.array(list(map(float, values)))


def with_measured(page: str, text: str) -> str:
    """The page with what is between the marks replaced.

    Raises:
      RecordError: if the page lacks them.
    """
    before, *rest = page.split(BEGIN)
    after = "".join(rest).split(END)
    if len(rest) != 1 or len(after) != 2 or END in before:
        raise RecordError(f"the page needs the lines {BEGIN} and {END}, once each")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after[1]}"
