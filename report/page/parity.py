"""A parity check's page."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from record.run import Run
from report.analysis.hardware import commit_name
from report.page import html
from report.page.blocks import Block, Entry, Section, Text, entry, items, table
from report.page.escape import to_html, visible
from report.page.figures import COLOURS
from report.page.tables import PAIR, pair
from report.parity.bounds import ALIKE, IDENTICAL, UNDECIDED
from report.parity.differences import losses
from report.parity.verdict import Verdict

STYLES = ("-", "--", ":", "-.")
MEANS = {
    IDENTICAL: "all of these runs, one for each line below, are the same",
    ALIKE: "rounding makes their losses and weights diverge, and their test scores lie "
    "in the interval of each other's controls",
    UNDECIDED: "nothing that was seen can decide it",
}


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
    image = html.data_link(figure.read_bytes(), "image/png")
    page.write_text(_page(verdict, runs, image, command), encoding="utf-8")
    return page


def _page(
    verdict: Verdict, runs: dict[str, Run], image: str, command: list[str]
) -> str:
    notes = [*verdict.set_apart, *verdict.notes] + [
        f"{c.a} against {c.b}: {reason}"
        for c in verdict.comparisons
        for reason in c.broken + c.unseen
    ]
    pairs = table(PAIR, map(pair, verdict.comparisons), "Every pair of runs")
    means = MEANS.get(verdict.verdict, "the runs differ by more than rounding allows")
    sections = [
        Section("apart", "How far apart", (APART, *pairs)),
        Section("trained", "What was trained", (*_trained(runs), NO_BENCHMARK)),
        Section("where", "Where", tuple(map(Text, _where(verdict, runs)))),
    ]
    return html.document(
        f"{verdict.experiment}: {verdict.verdict}",
        f"""<h1>{to_html(verdict.experiment)} in {to_html(verdict.precision)}:
<span class="{verdict.verdict.split()[0]}">{verdict.verdict}</span></h1>
<p>Judged by {to_html(verdict.decided_by)}: {means}.</p>
{html.in_lines(items(notes))}
<img alt="Loss curves of all runs, and the relative difference of each pair"
 src="{image}">
{html.rendered(sections)}
<p>To repeat it: <code>python {to_html(shlex.join(command))}</code></p>
""",
    )


APART = Text(
    "Relative differences: |a − b| over the larger of both; of weights, the largest "
    "difference of a parameter over its largest value."
)
NO_BENCHMARK = Text(
    "Throughput here is of a check, not of a benchmark: runs are short and share the "
    "machine."
)


def _trained(runs: dict[str, Run]) -> list[Block]:
    """All but the controls, which train two at once: their speed says nothing."""
    rows = []
    for label, run in runs.items():
        if run.config.train.perturb_seed:
            continue
        test, rate = run.summary["test"], run.summary["images_per_second"]["median"]
        cached, seconds = (run.summary[f"compile_{k}"] for k in ("cached", "seconds"))
        compiled = Entry("cached") if cached else entry(seconds, ".1f")
        scores = entry(test["loss"], ".6g"), entry(test["accuracy"], ".4f")
        rows.append((label, *scores, entry(rate, ",.0f"), compiled))
    head = ("run", "test loss", "test accuracy", "images/s", "compile s")
    return table(head, rows, "Every run but the controls")


def _where(verdict: Verdict, runs: dict[str, Run]) -> Iterator[str]:
    environment = next(iter(runs.values())).environment
    packages = ", ".join(f"{k} {v}" for k, v in environment["packages"].items() if v)
    yield (
        f"{environment['processor']}, {environment['cpu_count']} cores; Python "
        f"{environment['python']}; {packages}."
    )
    yield f"Commit {commit_name(environment)}."
    yield f"Recipe {verdict.config_hash[:12]}, data {verdict.data_fingerprint[:12]}."


def parity_figure(path: Path, verdict: Verdict, runs: dict[str, Run]) -> None:
    """Loss curves of every run, and below them the differences of each pair.

    Args:
      path: of the PNG to write.
      runs: by label, controls included.
    """
    matplotlib.use("agg")
    figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)

    drawn: dict[str, int] = {}
    for label, run in runs.items():
        if run.config.train.perturb_seed:
            continue
        framework, curve = run.summary["framework"], losses(run)
        nth = drawn.setdefault(framework, 0)
        drawn[framework] += 1
        # The first is wide, so that curves lying on it can be seen to do so.
        look = {"linewidth": 3.5 if framework == "torch" and not nth else 1.3}
        look |= {"color": COLOURS.get(framework, COLOURS[""]), "label": label}
        steps = np.arange(1, len(curve) + 1)
        upper.plot(steps, curve, STYLES[nth % len(STYLES)], **look)
    upper.set_ylabel("training loss")
    upper.set_title(
        visible(f"{verdict.experiment}, {verdict.precision}: {verdict.verdict}"),
        loc="left",
        parse_math=False,
    )
    labels = upper.legend(fontsize="small", ncols=2, loc="upper right").get_texts()

    # Equal losses have no place on a logarithmic axis: they lie on its lower edge.
    least = np.finfo(np.float64 if verdict.precision == "fp64" else np.float32).eps / 8
    for number, c in enumerate(verdict.comparisons):
        style, label = STYLES[number // 4 % len(STYLES)], f"{c.a} against {c.b}"
        look = {"color": f"C{number % 10}", "linewidth": 1, "label": label}
        steps = np.arange(1, len(c.differences) + 1)
        lower.plot(steps, np.maximum(c.differences, least), style, **look)
    allowed = np.min([c.allowed for c in verdict.comparisons], axis=0)
    steps = np.arange(1, len(allowed) + 1)
    lower.plot(steps, allowed, color="black", linewidth=2, label="allowed")
    if verdict.control is not None:
        moved = np.maximum(verdict.control.losses, least)
        lower.fill_between(steps, least, moved, color="0.85", label="controls")
    lower.set_yscale("log")
    lower.set_ylim(bottom=least)
    lower.set_xlabel("optimizer step")
    lower.set_ylabel("relative difference of the loss")
    below = figure.legend(
        *lower.get_legend_handles_labels(),
        fontsize="x-small",
        ncols=3,
        loc="outside lower center",  # beside the curves, which fill their axes
    )
    for label in (*labels, *below.get_texts()):
        label.set_parse_math(False)  # a name is shown as it is
    figure.savefig(path)
