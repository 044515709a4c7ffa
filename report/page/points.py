"""Every figure of a point by its name, for the tables, for CSV and for JSON."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from report.analysis.breakdown import PARTS
from report.analysis.cells import Cell
from report.analysis.findings import Report
from report.analysis.intervals import Estimate
from report.analysis.runs import TimedRun
from report.analysis.scaling import Curve, Point, Scaling
from report.analysis.sweeps import format_varied
from report.analysis.timings import TimeTo

# Beside which a row has the ends of their interval.
ESTIMATES = ("images_per_second", "speedup", "efficiency", "serial_fraction")
WITH_ENDS = (*ESTIMATES, "test_accuracy")


def rows(found: Scaling) -> list[dict[str, Any]]:
    """One flat row for every point of every curve, None where there is no figure.

    Units: rates in images/s over all devices, batches in examples, memory in bytes.
    """
    return [
        _flat(_own(curve, point)) for curve in found.curves for point in curve.points
    ]


def report_rows(report: Report) -> list[dict[str, Any]]:
    """The rows with what else a report knows of each point.

    Units beside those above: FLOP/s of one device, seconds of training, fractions of a
    step.
    """
    times = {cell: t for of in report.times.values() for cell, t in of.items()}
    return [
        _flat(point_figures(report, curve, point, times.get(point.cell)))
        for curve in report.scaling.curves
        for point in curve.points
    ]


def point_figures(
    report: Report, curve: Curve, point: Point, time: TimeTo | None
) -> dict[str, Any]:
    """All that is known of a point; estimates with their intervals."""
    cell, use = point.cell, report.utilisation(point)
    score, parts = report.accuracies.get(cell), report.breakdowns.get(cell)
    shares = {part: parts and parts.fractions.get(part) for part in PARTS}
    return {
        **_own(curve, point),
        "flops_per_device": use and use.flops.value,
        "mfu": use and use.fraction,
        "seeds": cell.seeds,
        "test_accuracy": score and score.mean,
        "test_accuracy_spread": score and score.spread,
        "target_accuracy": time and time.target,
        "seconds_to_accuracy": time and time.seconds,
        "device_hours_to_accuracy": time and time.device_hours,
        **{f"{part.replace(' ', '_')}_fraction": of for part, of in shares.items()},
    }


def _own(curve: Curve, point: Point) -> dict[str, Any]:
    """What a curve's point is, and what its own runs measured."""
    cell = point.cell
    return {
        **asdict(cell.setting),
        "varied": format_varied(cell.setting.varied),
        "regime": curve.regime,
        "world_size": cell.world_size,
        "global_batch_size": cell.global_batch_size,
        "grad_accum_steps": cell.grad_accum_steps,
        "device_batch": cell.device_batch,
        "repeats": len(cell.runs),
        **{name: getattr(point, name) for name in ESTIMATES},
        "compile_seconds": _median(compiled_runs(cell), "compile_seconds"),
        "startup_seconds": _median(cell.runs, "startup_seconds"),
        "peak_memory_bytes": max(_held(cell.runs, "peak_memory_bytes"), default=None),
        "without_interval": point.images_per_second.reason,
        "without_speedup": curve.reason,
    }


def _flat(figures: dict[str, Any]) -> dict[str, Any]:
    """Estimates as numbers, those of `WITH_ENDS` with the ends of their intervals."""
    row = {}
    for name, value in figures.items():
        estimate = value if isinstance(value, Estimate) else None
        row[name] = estimate.value if estimate else value
        if name in WITH_ENDS:
            row[f"{name}_low"] = estimate and estimate.low
            row[f"{name}_high"] = estimate and estimate.high
    return row


def compiled_runs(cell: Cell) -> tuple[TimedRun, ...]:
    """The runs whose steps did not come out of a cache."""
    return tuple(run for run in cell.runs if not run.compile_cached)


def _median(runs: Iterable[TimedRun], name: str) -> float | None:
    values = _held(runs, name)
    return float(np.median(values)) if values else None


def _held(runs: Iterable[TimedRun], name: str) -> list[Any]:
    """A figure of the runs that have it."""
    return [value for run in runs if (value := getattr(run, name)) is not None]
