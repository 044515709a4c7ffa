"""The table of a scaling report: a row per point, as CSV, JSON and Markdown."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from record.schema import strict_json
from report.breakdown import PARTS
from report.environment import environment_rows
from report.findings import Report
from report.runs import TimedRun
from report.scaling import Curve, Point, Scaling
from report.sentences import (
    check_sentence,
    claim_sentences,
    commit_sentences,
    fit_sentence,
    held_back_sentences,
    parity,
    projection_sentence,
    shown,
)

SCHEMA_VERSION = 1


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
            parts = report.breakdown_of(point.cell)
            shares = {} if parts is None else parts.shares
            table.append(
                {
                    **_row(curve, point),
                    "flops_per_device": None if use is None else use.flops.value,
                    "mfu": None if use is None or not use.share else use.share.value,
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
    text = io.StringIO()
    if table:
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _unformulated(v) for k, v in row.items()} for row in table)
    return text.getvalue()


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
            "interconnect": p.interconnect.source if p.interconnect else None,
            "model": [asdict(point) for point in p.points],
            "errors": {str(n): error for n, error in p.errors.items()},
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
        "steps": steps,
        "ranks": ranks,
        "projections": projections,
        "environment": dict(environment_rows(report)),
        "left_out": [asdict(out) for out in report.scaling.left_out],
    }
    return json.dumps(strict_json(whole), indent=1, allow_nan=False) + "\n"


def to_markdown(report: Report) -> str:
    """What a pull request shows: the verdict, a table per curve, what was left out."""
    verdict, said = parity(report)
    parts = [f"### Parity: {verdict}\n", f"{_cell_text(said)}\n"]
    parts += _items(map(check_sentence, report.checks))
    parts += _items(reason for check in report.checks for reason in check.reasons)
    for curve in report.scaling.curves:
        parts.append(f"### {_cell_text(str(curve))}\n")
        if curve.reason:
            parts.append(f"No speed-up: {_cell_text(curve.reason)}.\n")
        head = ("devices", "batch", "n", "images/s", "speed-up", "efficiency")
        fraction = "s(p)" if curve.regime == "weak" else "e(p)"
        lines = ["| " + " | ".join((*head, fraction)) + " |", "|---:" * 7 + "|"]
        lines += [_line(point) for point in curve.points]
        parts.append("\n".join(lines) + "\n")
        reasons = {p.images_per_second.reason for p in curve.points} - {""}
        parts += _items(f"no interval: {reason}" for reason in sorted(reasons))
        parts += _items(commit_sentences(curve))
        parts += _items(map(fit_sentence, curve.fits))
    if report.claims:
        parts.append("### JAX against PyTorch\n")
        parts += _items(claim_sentences(report))
    held_back = [
        f"{group.title}, {said}"
        for group in report.groups
        for said in held_back_sentences(report, group)
    ]
    if held_back:
        parts.append("### What holds it back\n")
        parts += _items(held_back)
    if report.projections:
        parts.append("### Further out, by a model\n")
        parts += _items(
            projection_sentence(p, str(p.curve)) for p in report.projections
        )
    if report.scaling.left_out:
        parts.append("### Left out\n")
        parts += _items(f"{o.name}: {o.reason}" for o in report.scaling.left_out)
    return "\n".join(parts)


def _items(sentences: Iterable[str]) -> list[str]:
    """A list, with the empty line that ends it."""
    items = [f"- {_cell_text(sentence)}" for sentence in sentences]
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
        "compile_seconds": _median(cell.runs, "compile_seconds"),
        "startup_seconds": _median(cell.runs, "startup_seconds"),
        "peak_memory_bytes": max(
            (r.peak_memory_bytes for r in cell.runs if r.peak_memory_bytes is not None),
            default=None,
        ),
        "without_interval": point.images_per_second.reason,
        "without_speedup": curve.reason,
    }


def _median(runs: tuple[TimedRun, ...], name: str) -> float | None:
    values = [getattr(r, name) for r in runs if getattr(r, name) is not None]
    return float(np.median(values)) if values else None


def _line(point: Point) -> str:
    cells = (
        str(point.cell.world_size),
        str(point.cell.global_batch),
        str(len(point.cell.runs)),
        shown(point.images_per_second, ",.0f"),
        shown(point.speedup, ".2f"),
        shown(point.efficiency, ".3f"),
        shown(point.serial_fraction, ".4f"),
    )
    return "| " + " | ".join(cells) + " |"


def _cell_text(text: str) -> str:
    """Text that Markdown shows as it is: names are the user's, and may hold HTML."""
    for character in r"\`*_[]<>&|#~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _unformulated(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, made plain by a quote."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if formula else value
