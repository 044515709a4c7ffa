"""Writes the results of `make bench`: verdicts, docs/performance.md and its figure."""

import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from hydra.core.config_store import ConfigStore  # noqa: E402

from launch.overrides import typed_config  # noqa: E402
from recipe.config import Config  # noqa: E402
from recipe.flops import training_flops  # noqa: E402
from record.environment import describe_environment, git_state  # noqa: E402
from report.analysis.intervals import Estimate  # noqa: E402

MARK = "<!-- measured: everything below is written by make bench -->\n"
FIGURE = "images/performance.png"
ACROSS, BARE_LOOPS = "jax twin / torch bare loop", "jax bare loop / torch bare loop"


@dataclass(frozen=True)
class Verdict:
    """A ratio and its bound, if it has one.

    Args:
      bare: the same ratio of plain loops of both frameworks; None within a framework.
    """

    title: str
    of: str
    ratio: Estimate
    bound: float | None
    at_least: bool = True
    bare: Estimate | None = None

    @property
    def missed(self) -> bool:
        """Whether the whole interval is on the wrong side of the bound.

        No twin can be blamed for what plain loops of the frameworks miss as well.
        """
        return self._outside and not self._bare_loops_miss

    @property
    def _bare_loops_miss(self) -> bool:
        return (
            self.bare is not None
            and self.bound is not None
            and self.bare.value < self.bound
        )

    @property
    def _outside(self) -> bool:
        if self.bound is None:
            return False
        low = self.ratio.value if self.ratio.low is None else self.ratio.low
        high = self.ratio.value if self.ratio.high is None else self.ratio.high
        return high < self.bound if self.at_least else low > self.bound

    @property
    def verdict(self) -> str:
        """In a word: "undecided" if the median misses the bound, not its interval.

        "bare loops miss it" if that is so, and the interval misses it.
        """
        if self.bound is None:
            return ""
        value = self.ratio.value
        meets = value >= self.bound if self.at_least else value <= self.bound
        if meets:
            return "holds"
        if self._outside and self._bare_loops_miss:
            return "bare loops miss it"
        return "missed" if self._outside else "undecided"

    @property
    def asked(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return "–" if self.bound is None else f"{sign} {self.bound:g}"

    def __str__(self) -> str:
        return f"{self.title}, {self.of}: {interval(self.ratio)}, bound {self.asked}"


def interval(ratio: Estimate) -> str:
    """A ratio with its interval, to three digits."""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3g}"
    return f"{ratio.value:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"


def verdicts(
    figures: dict[str, dict[str, Any]], matrix: dict[str, Any]
) -> list[Verdict]:
    """Every ratio with its bound."""
    judged = []
    for title, ratios in figures.items():
        least = title not in matrix["at_most"]
        bounds = matrix["at_least" if least else "at_most"].get(title, {})
        bare = figures.get(BARE_LOOPS, {}) if title == ACROSS else {}
        for of, ratio in ratios.items():
            bound = bounds.get(of)
            judged.append(Verdict(title, of, ratio, bound, least, bare.get(of)))
    return judged


def table(judged: list[Verdict]) -> str:
    """Markdown, a line for each ratio."""
    lines = [
        "| ratio | of | median (95 % interval) | bound | |",
        "|---|---|---|---|---|",
    ]
    for v in judged:
        lines.append(
            f"| {v.title} | {v.of} | {interval(v.ratio)} | {v.asked} | {v.verdict} |"
        )
    return "\n".join(lines)


def typed(overrides: list[str]) -> Config:
    """The config of a twin's run."""
    ConfigStore.instance().store("schema", node=Config)
    conf = Path(__file__).resolve().parent.parent / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        return typed_config(compose("config", overrides), Config)


def rates(runs: dict[str, Any], recipes: dict[str, list[str]], peak: float) -> str:
    """Markdown, a line for each program of each model."""
    lines = [
        "| model | program | images/s | MFU | start-up, s | compilation, s: first,"
        " later | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for benchmark, programs in runs.items():
        flops = training_flops(typed(recipes[benchmark]))
        for name, repeats in programs.items():

            def median(key: str, of: list[dict] = repeats) -> float:
                return statistics.median(repeat[key] for repeat in of)

            rate = median("images_per_second")
            first, later = repeats[0], repeats[1:] or repeats
            lines.append(
                f"| {benchmark} | {name} | {rate:,.4g} | {rate * flops / peak:.2f} "
                f"| {median('startup_seconds'):.1f} "
                f"| {first['compile_seconds']:.1f}, "
                f"{median('compile_seconds', later):.1f} "
                f"| {median('peak_bytes') / 1e6:,.0f} |"
            )
    return "\n".join(lines)


def operations(ops: dict[str, dict[str, float]]) -> str:
    """Markdown, a line for each single operation, in ms."""
    lines = ["| forward and backward, ms | " + " | ".join(ops) + " |"]
    lines.append("|---|" + "---|" * len(ops))
    for name in next(iter(ops.values())):
        lines.append(
            f"| {name} | " + " | ".join(f"{o[name]:g}" for o in ops.values()) + " |"
        )
    return "\n".join(lines)


def figure(file: Path, judged: list[Verdict]) -> None:
    """Every ratio of rates with its interval and its bound."""
    drawn = [v for v in judged if v.at_least]
    size = (8, 0.28 * len(drawn) + 1)
    chart, axes = plt.subplots(figsize=size, layout="constrained")
    for y, v in enumerate(drawn):
        value = v.ratio.value
        low, high = v.ratio.low or value, v.ratio.high or value
        error = [[max(value - low, 0)], [max(high - value, 0)]]
        axes.errorbar(value, y, xerr=error, fmt="o", color="C0", markersize=4)
        if v.bound is not None:
            axes.plot(v.bound, y, "|", color="C3", markersize=12)
    axes.set_yticks(range(len(drawn)), [f"{v.title}, {v.of}" for v in drawn])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ratio of images per second; red: its bound")
    axes.axvline(1, color="0.7", linewidth=1, zorder=0)
    axes.tick_params(labelsize=8)
    chart.savefig(file, dpi=150)
    plt.close(chart)


def page(
    file: Path,
    judged: list[Verdict],
    measured: str,
    how: str,
) -> None:
    """Update the measured part of docs/performance.md, and its figure.

    Args:
      how: the number of repeats, and the duration.
    """
    figure(file.parent / FIGURE, judged)
    commit, dirty = git_state()
    environment = describe_environment("torch", ["cpu"])
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    state = f"{str(commit)[:12]}{', changed' if dirty else ''}"
    text = f"""
Measured on {when} at commit {state} by `make bench`, {how}, on
{environment["processor"]} ({environment["cpu_count"]} cores).

![Every ratio with its interval and its bound]({FIGURE})

{table(judged)}

{measured}
"""
    kept = file.read_text().partition(MARK)[0]
    file.write_text(kept + MARK + text)
