"""Pages: one self-contained HTML file each, which asks nothing of any network."""

import base64
import json
import shlex
from html import escape
from pathlib import Path

from record.run import Run
from report.figures import parity_figure
from report.parity import IDENTICAL, UNDECIDED, Verdict

STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #00695c; --bad: #b71c1c; }
@media (prefers-color-scheme: dark) { :root { --good: #80cbc4; --bad: #ef9a9a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { line-height: 1.2; } .identical { color: var(--good); }
.different { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left;
         white-space: nowrap; }
td.number, th.number { text-align: right; }
img { max-width: 100%; height: auto; background: white; }
code { overflow-wrap: anywhere; }
"""


def write_parity_page(
    folder: Path, verdict: Verdict, runs: dict[str, Run], command: list[str]
) -> Path:
    """Write parity.json, parity.png and the page that shows both.

    Args:
      runs: by label, controls included.
      command: what was typed, to repeat it.

    Returns:
      The page.
    """
    text = json.dumps(verdict.to_json(), indent=1, allow_nan=False)
    (folder / "parity.json").write_text(text + "\n")
    figure = folder / "parity.png"
    parity_figure(figure, verdict, runs)
    page = folder / "index.html"
    image = base64.b64encode(figure.read_bytes()).decode()
    page.write_text(_parity_html(verdict, runs, image, command), encoding="utf-8")
    return page


def _parity_html(
    verdict: Verdict, runs: dict[str, Run], image: str, command: list[str]
) -> str:
    broken = verdict.notes + [
        f"{c.a} against {c.b}: {r}"
        for c in verdict.comparisons
        for r in c.broken + c.unseen
    ]
    comparisons = [
        [
            c.a,
            c.b,
            f"{c.differences[0]:.1e}",
            f"{max(c.differences):.1e} (step {c.worst_step})",
            f"{c.leaves[c.worst_leaf]:.1e} ({c.worst_leaf})",
            f"{c.test_difference:.1e}",
            c.verdict,
        ]
        for c in verdict.comparisons
    ]
    trained = []
    for label, run in runs.items():
        if run.config.train.nudge:
            continue  # trained two at once: their speed says nothing
        test, rate = run.summary["test"], run.summary["images_per_second"]["median"]
        accuracy = "–" if test["accuracy"] is None else f"{test['accuracy']:.4f}"
        trained.append(
            [
                label,
                f"{test['loss']:.6g}",
                accuracy,
                "–" if rate is None else f"{rate:,.0f}",
                f"{run.summary['compile_seconds']:.1f}",
            ]
        )
    environment = next(iter(runs.values())).environment
    packages = ", ".join(f"{k} {v}" for k, v in environment["packages"].items() if v)
    said = {
        IDENTICAL: "all of these runs, one for each line below, are the same",
        UNDECIDED: "what would tell them apart could not be seen",
    }.get(verdict.verdict, "the runs part further than rounding allows")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(verdict.experiment)}: {verdict.verdict}</title>
<style>{STYLE}</style></head><body>
<h1>{escape(verdict.experiment)} in {verdict.precision}:
<span class="{verdict.verdict}">{verdict.verdict}</span></h1>
<p>Judged by {escape(verdict.decided_by)}: {said}.</p>
{_list(broken)}
<img alt="Loss curves of all runs, and the relative difference of each pair"
 src="data:image/png;base64,{image}">
<h2>How far apart</h2>
<p>Relative differences: |a &minus; b| over the larger of both; of weights, the largest
difference of a parameter over its largest value.</p>
{
        _table(
            [
                "run",
                "against",
                "loss at step 1",
                "worst loss",
                "worst weights",
                "test loss",
                "verdict",
            ],
            comparisons,
            numbers=(2, 3, 4, 5),
        )
    }
<h2>What was trained</h2>
{
        _table(
            ["run", "test loss", "test accuracy", "images/s", "compile s"],
            trained,
            numbers=(1, 2, 3, 4),
        )
    }
<p>Throughput here is of a check, not of a benchmark: runs are short and share the
machine.</p>
<h2>Where</h2>
<p>{escape(environment["processor"])}, {environment["cpu_count"]} cores;
Python {escape(environment["python"])}; {escape(packages)}.<br>
Commit {escape(str(environment["git_commit"]))}{
        ", with local changes" if environment["git_dirty"] else ""
    }.<br>
Recipe {verdict.config_hash[:12]}, data {verdict.data_fingerprint[:12]}.</p>
<p>To repeat it: <code>python {escape(shlex.join(command))}</code></p>
</body></html>
"""


def _list(lines: list[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _table(head: list[str], rows: list[list[str]], numbers: tuple[int, ...]) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if i in numbers else ''}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{row(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
