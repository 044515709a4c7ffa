"""A report for machines: a flat row for every point as CSV, and all of it as JSON."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from record.schema import strict_json
from report.analysis.bandwidth import LinkedPoint
from report.analysis.cells import Cell
from report.analysis.checks import Check
from report.analysis.comparisons import SpeedComparison
from report.analysis.findings import Report
from report.analysis.projection import Projection
from report.analysis.scaling import Curve
from report.page import escape
from report.page.environment import environment_rows
from report.page.points import report_rows
from report.page.verdicts import check_sentence, parity
from report.parity.verdict import Comparison

SCHEMA_VERSION = 5


def to_csv(report: Report) -> str:
    """The rows with a header; an empty field is a figure that there is not."""
    table = report_rows(report)
    head = list(table[0]) if table else []
    return escape.to_csv([head, *(list(row.values()) for row in table)] if head else [])


def to_json(report: Report) -> str:
    """Verdict, rows and everything that was found; strict JSON."""
    verdict, message = parity(report)
    whole = {
        "schema_version": SCHEMA_VERSION,
        "parity": {"verdict": verdict, "message": message, "checks": report.checks},
        "rows": report_rows(report),
        "fits": [
            {"curve": curve, **plain(fit)}
            for curve in report.scaling.curves
            for fit in curve.fits
        ],
        "jax_against_torch": report.comparisons,
        "compiled_against_eager": report.compiled,
        "steps": list(report.breakdowns.values()),
        "ranks": list(report.ranks.values()),
        "projections": report.projections,
        "bandwidth": report.panels,
        "environment": dict(environment_rows(report)),
        "skipped": report.scaling.skipped,
    }
    return json.dumps(strict_json(plain(whole)), indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Convert findings to JSON values: dataclasses to objects, paths to names.

    Fields with `repr=False` are omitted.
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


def _named(value: Any, *names: str) -> dict[str, Any]:
    return {name: plain(getattr(value, name)) for name in names}


def _fields(value: Any) -> dict[str, Any]:
    return _named(value, *(field.name for field in fields(value) if field.repr))


def _comparison(found: SpeedComparison) -> dict[str, Any]:
    """Without a parity check there is no figure that could be quoted."""
    withheld, difference = bool(found.withheld), found.difference
    row = {
        "cell": str(found.cell),
        "against": str(found.under),
        "withheld": found.withheld,
        "ratio": None if withheld else plain(found.estimate),
    }
    if difference is not None:
        row["verdict"] = None if withheld else difference.verdict
        row |= _named(difference, "confidence", "repeats")
    return row


PAIR = ("a", "b", "kind", "first", "worst", "weights", "verdict", "broken", "unseen")
# What is more than its fields, or less.
SHAPES: dict[type, Any] = {
    Path: str,
    Cell: str,
    Curve: str,
    Comparison: lambda c: _named(c, *PAIR),
    SpeedComparison: _comparison,
    Check: lambda c: {
        **{"verdict": c.verdict, "message": check_sentence(c)},
        **_fields(c),
    },
    LinkedPoint: lambda p: {**_fields(p), "model_error": p.error},
    Projection: lambda p: {**_fields(p), "describes_the_curve": p.describes},
}
