"""A report for machines: a flat row for every point as CSV, and all of it as JSON."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from record.schema import strict_json
from report.analysis.breakdown import PARTS
from report.analysis.cells import Cell
from report.analysis.checks import Check
from report.analysis.claims import Claim, Compiled
from report.analysis.findings import Report
from report.analysis.intervals import Estimate
from report.analysis.projection import Projection
from report.analysis.runs import TimedRun
from report.analysis.scaling import Curve, Point, Scaling
from report.analysis.sweeps import words
from report.page import escape
from report.page.environment import environment_rows
from report.page.verdicts import check_sentence, parity

SCHEMA_VERSION = 2


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
            score = report.accuracy_of(point.cell)
            parts = report.breakdown_of(point.cell)
            row = {
                **_row(curve, point),
                "flops_per_device": _value(use and use.flops),
                "mfu": _value(use and use.share),
                "seeds": point.cell.seeds,
                **_with_ends("test_accuracy", score and score.mean),
                "test_accuracy_spread": score and score.spread,
                "target_accuracy": time and time.target,
                "seconds_to_accuracy": _value(time and time.seconds),
                "device_hours_to_accuracy": time and time.device_hours,
            }
            for part in PARTS:
                share = parts and parts.shares.get(part)
                row[f"{part.replace(' ', '_')}_share"] = _value(share)
            table.append(row)
    return table


def _row(curve: Curve, point: Point) -> dict[str, Any]:
    cell = point.cell
    return {
        **asdict(cell.setting),
        "varied": words(cell.setting.varied),
        "regime": curve.regime,
        "world_size": cell.world_size,
        "global_batch": cell.global_batch,
        "accumulate": cell.accumulate,
        "device_batch": cell.device_batch,
        "repeats": len(cell.runs),
        **_with_ends("images_per_second", point.images_per_second),
        **_with_ends("speedup", point.speedup),
        **_with_ends("efficiency", point.efficiency),
        **_with_ends("serial_fraction", point.serial_fraction),
        "compile_seconds": median_of(compiled_runs(cell), "compile_seconds"),
        "startup_seconds": median_of(cell.runs, "startup_seconds"),
        "peak_memory_bytes": peak_memory(cell),
        "without_interval": point.images_per_second.reason,
        "without_speedup": curve.reason,
    }


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _with_ends(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """A figure with the ends of its interval."""
    low, high = (None, None) if estimate is None else (estimate.low, estimate.high)
    return {name: _value(estimate), f"{name}_low": low, f"{name}_high": high}


def compiled_runs(cell: Cell) -> tuple[TimedRun, ...]:
    """The runs whose steps did not come out of a cache."""
    return tuple(run for run in cell.runs if not run.compile_cached)


def median_of(runs: Iterable[TimedRun], name: str) -> float | None:
    """Of a figure of the runs that have it."""
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    return float(np.median(values)) if values else None


def peak_memory(cell: Cell) -> int | None:
    """Bytes, the most of any run."""
    taken = (run.peak_memory_bytes for run in cell.runs)
    return max((n for n in taken if n is not None), default=None)


def to_csv(report: Report) -> str:
    """The rows with a header; an empty field is a figure that there is not."""
    table = report_rows(report)
    head = list(table[0]) if table else []
    return escape.to_csv([head, *(list(row.values()) for row in table)] if head else [])


def to_json(report: Report) -> str:
    """Verdict, rows and everything that was found; strict JSON."""
    verdict, said = parity(report)
    whole = {
        "schema_version": SCHEMA_VERSION,
        "parity": {"verdict": verdict, "said": said, "checks": report.checks},
        "rows": report_rows(report),
        "fits": [
            {"curve": curve, **plain(fit)}
            for curve in report.scaling.curves
            for fit in curve.fits
        ],
        "jax_against_torch": report.claims,
        "compiled_against_eager": report.compiled,
        "steps": report.breakdowns,
        "ranks": report.ranks,
        "projections": report.projections,
        "environment": dict(environment_rows(report)),
        "left_out": report.scaling.left_out,
    }
    return json.dumps(strict_json(plain(whole)), indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Findings as JSON has them: a dataclass by its fields, places by their names.

    What a dataclass keeps out of its `repr` is kept out of here as well.
    """
    for kind, shape in SHAPES.items():
        if isinstance(value, kind):
            return shape(value)
    if is_dataclass(value):
        return _fields(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _fields(value: Any) -> dict[str, Any]:
    names = [field.name for field in fields(value) if field.repr]
    return {name: plain(getattr(value, name)) for name in names}


def _claim(claim: Claim) -> dict[str, Any]:
    """Without a parity check there is no figure that could be quoted."""
    versus, withheld = claim.versus, bool(claim.withheld)
    difference = versus.difference
    return {
        "cell": str(versus.jax),
        "against": str(versus.torch),
        "withheld": claim.withheld,
        "jax_over_torch": None if withheld else plain(difference.ratio),
        "verdict": None if withheld else difference.verdict,
        "confidence": difference.confidence,
        "repeats": list(difference.repeats),
    }


def _compiled(found: Compiled) -> dict[str, Any]:
    return {
        "cell": str(found.ratio.cell),
        "against": str(found.ratio.under),
        "withheld": found.withheld,
        "compiled_over_eager": None if found.withheld else plain(found.ratio.estimate),
    }


# What is more than its fields, or less.
SHAPES: dict[type, Any] = {
    Path: str,
    Cell: str,
    Curve: str,
    Claim: _claim,
    Compiled: _compiled,
    Check: lambda c: {"verdict": c.verdict, "said": check_sentence(c), **_fields(c)},
    Projection: lambda p: {**_fields(p), "describes_the_curve": p.describes},
}
