"""Writes docs/claims.md and its figure from docs/claims.json and claims.yaml."""

from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.claims.sums import (
    MEASURES,
    Cases,
    break_even,
    holds,
    total_seconds,
)
from launch.quiet import BUSY
from report.analysis.intervals import Estimate, median_estimate

FIGURE = "images/claims.png"
COUNTS = (1, 1_000, 100_000)  # N of T(N)
CHEAPEST = (1, 100, 1_000, 10_000, 100_000)
NONE = "**Not measured yet**: run `make claims` on a quiet machine.\n"
Results = dict[str, Any]  # of one kind of device: machine, and what was measured


def page(notes: dict[str, Any], measured: dict[str, Results]) -> str:
    """Markdown, wholly generated.

    Args:
      measured: kind of device, "cpu" or "gpu" -> results.
    """
    if not measured:
        return "\n".join([notes["intro"], NONE, _claims(notes, {}), notes["elsewhere"]])
    parts = [
        notes["intro"],
        *(_machine(kind, its["machine"]) for kind, its in measured.items()),
        _claims(notes, measured),
    ]
    for kind, its in measured.items():
        parts += _costs(notes, kind, its)
    parts += [notes["others"], _others(notes, measured)]
    first = next(iter(measured.values()))
    parts += [notes["lines"], _lines(notes, first["lines"]), notes["elsewhere"]]
    return "\n".join(parts)


def _machine(kind: str, machine: dict[str, Any]) -> str:
    busy = machine["busy"]["median"]
    warning = (
        " **The machine was not quiet: do not rely on these figures**, and repeat "
        "`make claims` on one that is."
    )
    return (
        f"{kind.upper()}: {machine['name']}, {machine['cores']} cores, on "
        f"{machine['date']} at commit {machine['commit']}, in {machine['minutes']:.0f} "
        f"minutes by `make claims`; medians of {machine['repeats']} repeats, each a "
        f"process. The load average was {machine['load']:.1f} at the start; between "
        f"measurements other processes used {busy:.0%} of the "
        f"cores, at most {machine['busy']['most']:.0%}."
        f"{warning * (busy > BUSY)}\n"
    )


def _claims(notes: dict[str, Any], measured: dict[str, Results]) -> str:
    """A row for each claim."""
    lines = [
        "| claimed | by | CPU: measured | 95 % interval | GPU: measured, 95 % interval "
        "| holds where | not tested here | repeat |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in notes["claims"]:
        cases = {
            kind: MEASURES[claim["measure"]](its) for kind, its in measured.items()
        }
        cpu, gpu = cases.get("cpu", {}), cases.get("gpu", {})
        measures = ", ".join(f"{n} {_value(e)}" for n, e in cpu.items())
        both = ", ".join(f"{n} {_value(e)} ({_ends(e)})" for n, e in gpu.items())
        cells = [
            claim["claim"],
            f"[{claim['by']}]({claim['link']})",
            f"{claim['of']}: {measures}" if cpu else "not measured",
            "; ".join(f"{n} {_ends(e)}" for n, e in cpu.items()) or "–",
            both or "not measured",
            "; ".join(
                f"{kind.upper()}: {_where(notes, claim, its)}"
                for kind, its in cases.items()
            ),
            claim["untested"],
            f"`make claims ONLY={claim['part']}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _where(notes: dict[str, Any], claim: dict[str, Any], cases: Cases) -> str:
    """Where a claim holds, does not, and is undecided."""
    groups: dict[str, list[str]] = {"yes": [], "no": [], "undecided": []}
    for name, case in cases.items():
        convolves = " (convolutions)" * (name in notes["convolutional"])
        verdict = holds(case, claim["holds"], claim["bound"])
        groups[verdict].append(name + convolves)
    words = {"yes": "", "no": "not in ", "undecided": "undecided in "}
    said = [words[v] + ", ".join(names) for v, names in groups.items() if names]
    return ", ".join(said)


def _value(estimate: Estimate) -> str:
    return f"{estimate.value:.3g}"


def _ends(estimate: Estimate) -> str:
    return estimate.interval(".3g") or estimate.reason


def _costs(notes: dict[str, Any], kind: str, results: Results) -> list[str]:
    """What N steps cost on one kind of device, and break-even."""
    models = results["cost"]
    image = FIGURE if kind == "cpu" else FIGURE.replace(".", f"-{kind}.")
    lines = [
        "| model | program | import, s | start, s | compile, s | step, ms | "
        + " | ".join(f"T({n:,}), s" for n in COUNTS)
        + " | peak memory, MB: process | allocator |",
        "|---|---|---" + "|---" * (5 + len(COUNTS)) + "|",
    ]
    for model, its in models.items():
        for program, runs in its["programs"].items():
            seconds = [median(r[key] for r in runs) for key in ("import", "start")]
            compiling = max(0.0, median(r["compile"] for r in runs))
            times = [f"{s:.1f}" for s in (*seconds, compiling)]
            step = f"{1e3 * median(r['step'] for r in runs):.3g}"
            totals = [_seconds(total_seconds(runs, n)) for n in COUNTS]
            process = f"{median(r['peak_process'] for r in runs) / 1e6:,.0f}"
            held = [r["peak_device"] for r in runs]
            device = "–" if None in held else f"{median(held) / 1e6:,.0f}"
            cells = [model, program, *times, step, *totals, process, device]
            lines.append("| " + " | ".join(cells) + " |")
    flops = ", ".join(f"{m} {its['flops'] / 1e9:.2g}" for m, its in models.items())
    text = (
        f"{notes['cost']}\nOn the {kind.upper()}; GFLOP of a step: {flops}. A CPU "
        "has no allocator of its own to ask. `make claims ONLY=cost` repeats this.\n\n"
        f"![T(N) of each model, and the step over its size]({image})\n"
    )
    parts = notes["cheapest"], _cheapest(models), notes["break_even"]
    return [text, "\n".join(lines) + "\n", *parts, _break_even(models)]


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _cheapest(models: dict[str, Any]) -> str:
    """A row for each N and kind of cache, a column for each model."""
    lines = [
        f"| N | cache | {' | '.join(models)} |",
        "|---" * (2 + len(models)) + "|",
    ]
    for count in CHEAPEST:
        for cache, other in (("cold", "warm"), ("warm", "cold")):
            cells = [
                min(
                    (p for p in its["programs"] if other not in p),
                    key=lambda p: total_seconds(its["programs"][p], count),  # noqa: B023
                ).partition(",")[0]
                for its in models.values()
            ]
            lines.append(f"| {count:,} | {cache} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _break_even(models: dict[str, Any]) -> str:
    """A row for each pair of programs, a column for each model."""
    programs = list(next(iter(models.values()))["programs"])
    lines = [
        f"| second after first | {' | '.join(models)} |",
        "|---" * (1 + len(models)) + "|",
    ]
    marked = False
    for first, second in combinations(programs, 2):
        points = [
            break_even(its["programs"][first], its["programs"][second])
            for its in models.values()
        ]
        marked |= any(point.same_step for point in points)
        cells = " | ".join(map(str, points))
        lines.append(f"| {second} after {first} | {cells} |")
    note = "\n\n† The steps are not shown to differ: what is fixed decides." * marked
    return "\n".join(lines) + note + "\n"


def _others(notes: dict[str, Any], measured: dict[str, Results]) -> str:
    """Restart, first gradient, a NaN, efficiency: a row each, a column per device."""
    rows = {kind: _other_rows(its) for kind, its in measured.items()}
    lines = ["| what | of | CPU | GPU | repeat |", "|---|---|---|---|---|"]
    for key in dict.fromkeys(key for its in rows.values() for key in its):
        what, of, part = key
        cells = [
            f"{rows[kind][key]:.3g}" if key in rows.get(kind, {}) else "not measured"
            for kind in ("cpu", "gpu")
        ]
        repeat = f"`make claims ONLY={part}`"
        lines.append(f"| {what} | {of} | {' | '.join(cells)} | {repeat} |")
    return "\n".join(lines) + "\n"


def _other_rows(results: Results) -> dict[tuple[str, str, str], Estimate]:
    rows: dict[tuple[str, str, str], Estimate] = {}
    for framework, its in results["restart"].items():
        for kind, seconds in its.items():
            what = f"{kind} start to the end of the first step, cnn, s"
            rows[what, framework, "restart"] = median_estimate(seconds)
    for program, seconds in results["gradient"].items():
        what = "first gradient of a changed cnn in a running process, s"
        rows[what, program, "gradient"] = median_estimate(seconds)
    ways = {
        "tool": "a NaN's layer is named by {}, 1 step, s",
        "trace": "a NaN's layer is named by train.trace, {} steps, s",
    }
    tools = {"torch": "forward hooks", "jax": "jax.debug_nans"}
    for framework, its in results["nan"].items():
        for way, what in ways.items():
            with_what = what.format(tools[framework] if way == "tool" else its["steps"])
            rows[with_what, framework, "nan"] = median_estimate(its[way])
    for framework, values in results["scaling"].items():
        what = "efficiency of two processes, a core each, cnn"
        rows[what, framework, "scaling"] = median_estimate(values)
    return rows


def _lines(notes: dict[str, Any], counts: dict[str, dict[str, int]]) -> str:
    """A row for each feature, and the sums; `make claims ONLY=lines` counts again."""
    lines = ["| feature | files | PyTorch | JAX |", "|---|---|---|---|"]
    rest = [file for file in counts if file not in sum(notes["features"].values(), [])]
    features = notes["features"] | ({"the rest": rest} if rest else {})
    features["all"] = list(counts)
    for feature, known in features.items():
        files = [file for file in known if file in counts]
        if not files:
            continue  # counted before there were any
        sums = [sum(counts[f][t] for f in files) for t in ("torch", "jax")]
        named = ", ".join(f"`{f}`" for f in files) if feature != "all" else ""
        lines.append(f"| {feature} | {named} | {sums[0]:,} | {sums[1]:,} |")
    return "\n".join(lines) + "\n\n`make claims ONLY=lines` counts them again.\n"


def figure(file: Path, results: Results) -> None:
    """T(N) of each model, and the step over the FLOPs, a line for each program."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np

    models = results["cost"]
    chart, axes = plt.subplots(2, 3, figsize=(11, 6.5), layout="constrained")
    panels = list(axes.flat)
    counts = np.unique(np.logspace(0, 6, 60).round())
    programs = list(next(iter(models.values()))["programs"])
    styles = dict(zip(programs, ("C0-", "C1-", "C1:", "C3-", "C3:"), strict=True))
    for panel, (model, its) in zip(panels, models.items(), strict=False):
        for program, runs in its["programs"].items():
            times = [total_seconds(runs, n) for n in counts]
            panel.loglog(counts, times, styles[program])
        panel.set_title(f"{model}: T(N) in s over N steps", fontsize=10)
    sizes = [its["flops"] / 1e9 for its in models.values()]
    panel = panels[len(models)]
    for program, style in styles.items():
        steps = [
            1e3 * median(r["step"] for r in its["programs"][program])
            for its in models.values()
        ]
        panel.loglog(sizes, steps, style, marker="o", markersize=4, label=program)
    panel.set_title("step in ms over its GFLOP: the host's floor", fontsize=10)
    for panel in panels:
        panel.grid(alpha=0.3)
    for panel in panels[len(models) + 1 :]:
        panel.axis("off")
    chart.legend(loc="lower right", bbox_to_anchor=(0.97, 0.15), fontsize=10)
    chart.savefig(file, dpi=130)
    plt.close(chart)
