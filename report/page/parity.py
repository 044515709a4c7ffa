"""A parity check's page."""

import base64
import json
import shlex
from pathlib import Path

from record.run import Run
from report.page.escape import to_html
from report.page.figures import parity_figure
from report.page.html import document, listed, table
from report.parity.bounds import (
    ALIKE,
    IDENTICAL,
    UNDECIDED,
)
from report.parity.verdict import Verdict


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
    broken = [*verdict.set_apart, *verdict.notes] + [
        f"{c.a} against {c.b}: {reason}"
        for c in verdict.comparisons
        for reason in c.broken + c.unseen
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
                "cached"
                if run.summary["compile_cached"]
                else f"{run.summary['compile_seconds']:.1f}",
            ]
        )
    environment = next(iter(runs.values())).environment
    packages = ", ".join(f"{k} {v}" for k, v in environment["packages"].items() if v)
    said = {
        IDENTICAL: "all of these runs, one for each line below, are the same",
        ALIKE: "rounding parts their losses and weights, and their test scores lie in "
        "the interval of each other's controls",
        UNDECIDED: "what would tell them apart could not be seen",
    }.get(verdict.verdict, "the runs part further than rounding allows")
    title = f"{verdict.experiment}: {verdict.verdict}"
    return document(
        title,
        f"""<h1>{to_html(verdict.experiment)} in {to_html(verdict.precision)}:
<span class="{verdict.verdict.split()[0]}">{verdict.verdict}</span></h1>
<p>Judged by {to_html(verdict.decided_by)}: {said}.</p>
{listed(broken)}
<img alt="Loss curves of all runs, and the relative difference of each pair"
 src="data:image/png;base64,{image}">
<h2>How far apart</h2>
<p>Relative differences: |a &minus; b| over the larger of both; of weights, the largest
difference of a parameter over its largest value.</p>
{
            table(
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
            table(
                ["run", "test loss", "test accuracy", "images/s", "compile s"],
                trained,
                numbers=(1, 2, 3, 4),
            )
        }
<p>Throughput here is of a check, not of a benchmark: runs are short and share the
machine.</p>
<h2>Where</h2>
<p>{to_html(environment["processor"])}, {environment["cpu_count"]} cores;
Python {to_html(environment["python"])}; {to_html(packages)}.<br>
Commit {to_html(str(environment["git_commit"]))}{
            ", with local changes" if environment["git_dirty"] else ""
        }.<br>
Recipe {to_html(verdict.config_hash[:12])}, data {
            to_html(verdict.data_fingerprint[:12])
        }.</p>
<p>To repeat it: <code>python {to_html(shlex.join(command))}</code></p>
""",
    )
