"""Figures, drawn by matplotlib without a display."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from record.run import Run
from report.parity import Verdict, losses

# Okabe and Ito's palette: told apart by the colour-blind, and in grey by lightness.
COLOURS = {"torch": "#D55E00", "jax": "#0072B2"}
STYLES = ("-", "--", ":", "-.")


def parity_figure(path: Path, verdict: Verdict, runs: dict[str, Run]) -> None:
    """Loss curves of every run, and below them how far each pair is apart.

    Args:
      path: of the PNG to write.
      runs: by label, controls included.
    """
    matplotlib.use("agg")
    figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)

    drawn: dict[str, int] = {}
    for label, run in runs.items():
        if run.config.train.nudge:
            continue
        framework = run.summary["framework"]
        style = STYLES[drawn.setdefault(framework, 0) % len(STYLES)]
        drawn[framework] += 1
        curve = losses(run)
        steps = np.arange(1, len(curve) + 1)
        colour = COLOURS[framework]
        # The first is wide, so that curves lying on it can be seen to do so.
        width = 3.5 if framework == "torch" and drawn[framework] == 1 else 1.3
        upper.plot(steps, curve, style, color=colour, linewidth=width, label=label)
    upper.set_ylabel("training loss")
    upper.set_title(
        f"{verdict.experiment}, {verdict.precision}: {verdict.verdict}",
        loc="left",
        parse_math=False,
    )
    upper.legend(fontsize="small", ncols=2, loc="upper right")

    # Equal losses have no place on a logarithmic axis: they lie on its lower edge.
    least = np.finfo(np.float64 if verdict.precision == "fp64" else np.float32).eps / 8
    for number, c in enumerate(verdict.comparisons):
        steps = np.arange(1, len(c.differences) + 1)
        lower.plot(
            steps,
            np.maximum(c.differences, least),
            STYLES[number // 4 % len(STYLES)],
            color=f"C{number % 10}",
            linewidth=1,
            label=f"{c.a} against {c.b}",
        )
    allowed = np.min([c.allowed for c in verdict.comparisons], axis=0)
    steps = np.arange(1, len(allowed) + 1)
    lower.plot(steps, allowed, color="black", linewidth=2, label="allowed")
    if verdict.control is not None:
        lower.fill_between(
            steps,
            least,
            np.maximum(verdict.control.losses, least),
            color="0.85",
            label="one-ulp controls",
        )
    lower.set_yscale("log")
    lower.set_ylim(bottom=least)
    lower.set_xlabel("optimizer step")
    lower.set_ylabel("relative difference of the loss")
    figure.legend(
        *lower.get_legend_handles_labels(),
        fontsize="x-small",
        ncols=3,
        loc="outside lower center",  # beside the curves, which fill their axes
    )
    figure.savefig(path)
