"""The table of a scaling report: a row per point, as CSV, JSON and Markdown."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from record.schema import strict_json
from report.analysis.breakdown import PARTS
from report.analysis.cells import Cell
from report.analysis.findings import Report
from report.analysis.groups import Group
from report.analysis.projection import describes
from report.analysis.runs import TimedRun
from report.analysis.scaling import WEAK, Curve, Point, Scaling
from report.analysis.sweeps import words
from report.page import escape
from report.page.accuracy_table import accuracy_table, without_empty
from report.page.environment import commands, environment_rows
from report.page.html import Shown, estimate_cell, number_cell
from report.page.sentences import (
    accuracy_sentences,
    batch_sentences,
    check_sentence,
    claim_sentences,
    commit_sentences,
    compiled_sentences,
    fit_sentences,
    held_back_sentences,
    in_words,
    of_what,
    parity,
    projection_sentence,
)

SCHEMA_VERSION = 1
MIB = 2**20


def rows(found: Scaling) -> list[dict[str, Any]]:
    """One flat row for every point of every curve, None where there is no figure.

    Units: rates in images/s over all devices, batches in examples, memory in bytes.
    """
    return [_row(curve, point) for curve in found.curves for point in curve.points]


def report_rows(report: Report) -> list[dict[str, Any]]:
    """The rows with what else a report knows of each point.

    Beside the units above: FLOP/s of one device, seconds of training, shares of a step.
    """
    times = {id(t.cell): t for found in report.times.values() for t in found}
    table = []
    for curve in report.scaling.curves:
        for point in curve.points:
            use, time = report.utilisation(point), times.get(id(point.cell))
            seconds = None if time is None else time.seconds
            score = report.accuracy_of(point.cell)
            parts = report.breakdown_of(point.cell)
            shares = {} if parts is None else parts.shares
            table.append(
                {
                    **_row(curve, point),
                    "flops_per_device": None if use is None else use.flops.value,
                    "mfu": None if use is None or not use.share else use.share.value,
                    "seeds": point.cell.seeds,
                    "test_accuracy": score.mean.value if score else None,
                    "test_accuracy_low": score.mean.low if score else None,
                    "test_accuracy_high": score.mean.high if score else None,
                    "test_accuracy_spread": score.spread if score else None,
                    "target_accuracy": None if time is None else time.target,
                    "seconds_to_accuracy": seconds.value if seconds else None,
                    "device_hours_to_accuracy": time.device_hours if time else None,
                    **{
                        f"{part.replace(' ', '_')}_share": s.value if s else None
                        for part in PARTS
                        for s in [shares.get(part)]
                    },
                }
            )
    return table


def to_csv(report: Report) -> str:
    """The rows with a header; an empty field is a figure that there is not."""
    table = report_rows(report)
    head = list(table[0]) if table else []
    return escape.to_csv([head, *(list(row.values()) for row in table)] if head else [])


def to_json(report: Report) -> str:
    """Verdict, rows, fits, comparisons and what was left out; strict JSON."""
    verdict, said = parity(report)
    fits = [
        {"curve": str(curve), **asdict(fit)}
        for curve in report.scaling.curves
        for fit in curve.fits
    ]
    versus = [
        {
            "cell": str(c.versus.jax),
            "against": str(c.versus.torch),
            "withheld": c.withheld,
            # Without a parity check there is no figure that could be quoted.
            "jax_over_torch": None if c.withheld else asdict(c.versus.difference.ratio),
            "verdict": None if c.withheld else c.versus.difference.verdict,
            "confidence": c.versus.difference.confidence,
            "repeats": list(c.versus.difference.repeats),
        }
        for c in report.claims
    ]
    compiled = [
        {
            "cell": str(c.ratio.cell),
            "against": str(c.ratio.under),
            "withheld": c.withheld,
            "compiled_over_eager": None if c.withheld else asdict(c.ratio.estimate),
        }
        for c in report.compiled
    ]
    checks = [
        {
            "folder": str(check.path),
            "verdict": check.verdict,
            "said": check_sentence(check),
            "comparisons": [
                {**asdict(c), "broken": list(c.broken), "unseen": list(c.unseen)}
                for c in check.comparisons
            ],
        }
        for check in report.checks
    ]
    projections = [
        {
            "curve": str(p.curve),
            "reason": p.reason,
            "interconnect": asdict(p.interconnect) if p.interconnect else None,
            "model": [asdict(point) for point in p.points],
            "errors": {str(n): error for n, error in p.errors.items()},
            "describes_the_curve": describes(p.errors),
        }
        for p in report.projections
    ]
    steps = [
        {
            "cell": str(of.cell),
            "milliseconds": asdict(of.milliseconds),
            "shares": {part: asdict(share) for part, share in of.shares.items()},
        }
        for of in report.breakdowns
    ]
    ranks = [
        {
            "cell": str(of.cell),
            "with_exchange": not of.alone,
            "rank": time.rank,
            "milliseconds": asdict(time.median),
            "over_mean": asdict(time.over_mean),
            "slowest": time.slowest,
        }
        for of in report.ranks
        for time in of.times
    ]
    whole = {
        "schema_version": SCHEMA_VERSION,
        "parity": {"verdict": verdict, "said": said, "checks": checks},
        "rows": report_rows(report),
        "fits": fits,
        "jax_against_torch": versus,
        "compiled_against_eager": compiled,
        "steps": steps,
        "ranks": ranks,
        "projections": projections,
        "environment": dict(environment_rows(report)),
        "left_out": [asdict(out) for out in report.scaling.left_out],
    }
    return json.dumps(strict_json(whole), indent=1, allow_nan=False) + "\n"


def points_table(
    report: Report, group: Group
) -> tuple[list[str], list[list[str | Shown]], list[str]]:
    """A group's points for a reader, on the page and in Markdown alike.

    Returns:
      Its head, its rows, and why figures are missing from it.
    """
    times = {id(t.cell): t for t in report.times[group.title]}
    fraction = "s(p)" if group.curves[0].regime == WEAK else "e(p)"
    target = next((f"{t.target:g}" for t in times.values()), "")
    to = f"to {target}" if target else "to accuracy"
    head = (
        *("framework", "devices", "global batch", "runs", "images/s", "speed-up"),
        *("efficiency", fraction, "TFLOP/s per device", "MFU", "peak memory MiB"),
        *("compile s", "start-up s", f"seconds {to}", f"device-hours {to}"),
    )
    rows = []
    for curve in group.curves:
        for point in curve.points:
            cell, use = point.cell, report.utilisation(point)
            time = times.get(id(cell))
            memory = [r.peak_memory_bytes for r in cell.runs if r.peak_memory_bytes]
            rows.append(
                [
                    group.label(curve),
                    str(cell.world_size),
                    str(cell.global_batch),
                    str(len(cell.runs)),
                    estimate_cell(point.images_per_second, ",.0f"),
                    estimate_cell(point.speedup, ".2f"),
                    estimate_cell(point.efficiency, ".3f"),
                    estimate_cell(point.serial_fraction, ".3f"),
                    number_cell(use.flops.value / 1e12 if use else None, ".3g"),
                    estimate_cell(use.share if use else None, "#.3g"),
                    number_cell(max(memory) / MIB if memory else None, ",.0f"),
                    number_cell(_median(_compiled(cell), "compile_seconds"), ".2f"),
                    number_cell(_median(cell.runs, "startup_seconds"), ".2f"),
                    estimate_cell(time.seconds if time else None, ".3g"),
                    number_cell(time.device_hours if time else None, ".3g"),
                ]
            )
    reasons = [f"{group.label(c)}: no speed-up, {c.reason}" for c in group.curves]
    reasons = [r for c, r in zip(group.curves, reasons, strict=True) if c.reason]
    reasons += sorted(
        {
            f"{group.label(c)} on {p.cell.world_size}: no interval, {reason}"
            for c in group.curves
            for p in c.points
            if (reason := p.images_per_second.reason)
        }
    )
    reasons += [
        f"{group.label(c)} on {said}"
        for c in group.curves
        for said in commit_sentences(c)
    ]
    without: dict[str, list[str]] = defaultdict(list)
    for curve in group.curves:
        for point in curve.points:
            time = times.get(id(point.cell))
            if time is not None and time.seconds is None:
                name = f"{group.label(curve)} ×{point.cell.world_size}"
                without[time.reason].append(name)
    reasons += [
        f"No time to accuracy, {reason}: {in_words(names)}"
        for reason, names in without.items()
    ]
    cells = [point.cell for curve in group.curves for point in curve.points]
    if cached := sum(len(cell.runs) - len(_compiled(cell)) for cell in cells):
        runs = f"{cached} run{'s' * (cached > 1)}"
        reasons.append(f"Compile s leaves out {runs} with steps from a cache")
    return *without_empty(head, rows), reasons


def to_markdown(report: Report) -> str:
    """What a pull request shows: the verdict, a table per group, where it ran."""
    verdict, said = parity(report)
    parts = [f"### Parity: {verdict}\n", f"{escape.to_markdown(said)}\n"]
    parts += _items(map(check_sentence, report.checks))
    parts += _items(reason for check in report.checks for reason in check.reasons)
    parts += _items(batch_sentences(report))
    parts.append(f"{escape.to_markdown(of_what(report))}.\n")
    for group in report.groups:
        parts.append(f"### {escape.to_markdown(group.title)}\n")
        parts += _items(accuracy_sentences(report, group))
        parts += _table(*accuracy_table(report, group))
        if not group.is_sweep:
            parts += _table(*points_table(report, group))
        parts += _items(fit_sentences(group))
    if report.claims:
        parts.append("### JAX against PyTorch\n")
        parts += _items(claim_sentences(report))
    if report.compiled:
        parts.append("### PyTorch compiled against eager\n")
        parts += _items(compiled_sentences(report))
    held_back = [
        f"{group.title}, {said}"
        for group in report.groups
        for said in held_back_sentences(report, group)
    ]
    if held_back:
        parts.append("### What holds it back\n")
        parts += _items(held_back)
    swept = {id(c) for g in report.groups if g.is_sweep for c in g.curves}
    if projections := [p for p in report.projections if id(p.curve) not in swept]:
        parts.append("### Further out, by a model\n")
        parts += _items(projection_sentence(p, str(p.curve)) for p in projections)
    if report.scaling.left_out:
        parts.append("### Left out\n")
        parts += _items(f"{o.name}: {o.reason}" for o in report.scaling.left_out)
    environment = [f"{n}: {', '.join(found)}" for n, found in environment_rows(report)]
    if environment:
        parts.append("### Where, and how to repeat it\n")
        parts.append(f"{escape.to_markdown('; '.join(environment))}.\n")
    parts += [f"- {escape.code(command)}" for command in commands(report)]
    return "\n".join([*parts, ""])


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str | Shown]], notes: Sequence[str]
) -> list[str]:
    """A table and what is to be known of it; nothing without a row."""
    lines = [
        [escape.to_markdown(name) for name in head],
        ["---", *("---:" for _ in head[1:])],
        *([_in_line(cell) for cell in row] for row in rows),
    ]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    return [text, *_items(notes)] if rows else []


def _items(sentences: Iterable[str]) -> list[str]:
    """A list, with the empty line that ends it."""
    items = [f"- {escape.to_markdown(sentence)}" for sentence in sentences]
    return [*items, ""] if items else []


def _row(curve: Curve, point: Point) -> dict[str, Any]:
    cell = point.cell
    estimates = {
        "images_per_second": point.images_per_second,
        "speedup": point.speedup,
        "efficiency": point.efficiency,
        "serial_fraction": point.serial_fraction,
    }
    return {
        **asdict(cell.setting),
        "varied": words(cell.setting.varied),
        "regime": curve.regime,
        "world_size": cell.world_size,
        "global_batch": cell.global_batch,
        "accumulate": cell.accumulate,
        "device_batch": cell.device_batch,
        "repeats": len(cell.runs),
        **{
            f"{name}{end}": None if estimate is None else getattr(estimate, field)
            for name, estimate in estimates.items()
            for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
        },
        "compile_seconds": _median(_compiled(cell), "compile_seconds"),
        "startup_seconds": _median(cell.runs, "startup_seconds"),
        "peak_memory_bytes": max(
            (r.peak_memory_bytes for r in cell.runs if r.peak_memory_bytes is not None),
            default=None,
        ),
        "without_interval": point.images_per_second.reason,
        "without_speedup": curve.reason,
    }


def _compiled(cell: Cell) -> tuple[TimedRun, ...]:
    """The runs whose steps did not come out of a cache."""
    return tuple(run for run in cell.runs if not run.compile_cached)


def _median(runs: tuple[TimedRun, ...], name: str) -> float | None:
    values = [getattr(r, name) for r in runs if getattr(r, name) is not None]
    return float(np.median(values)) if values else None


def _in_line(cell: str | Shown) -> str:
    """A table's cell; within one, a stroke would end it even in code."""
    held = cell if isinstance(cell, Shown) else Shown(cell)
    below = f" ({held.below})" * bool(held.below)
    return escape.to_markdown(held.text + below).replace("|", "\\|")
