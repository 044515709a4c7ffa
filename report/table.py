"""The table of a scaling report: a row per point, as CSV, JSON and Markdown."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from record.schema import strict_json
from report.intervals import Estimate
from report.runs import TimedRun
from report.scaling import Curve, Point, Scaling

SCHEMA_VERSION = 1


def rows(found: Scaling) -> list[dict[str, Any]]:
    """One flat row for every point of every curve, None where there is no figure.

    Units: rates in images/s over all devices, batches in examples, memory in bytes.
    """
    return [_row(curve, point) for curve in found.curves for point in curve.points]


def to_csv(found: Scaling) -> str:
    """The rows with a header; an empty field is a figure that there is not."""
    table = rows(found)
    text = io.StringIO()
    if table:
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _unformulated(v) for k, v in row.items()} for row in table)
    return text.getvalue()


def to_json(found: Scaling) -> str:
    """Rows, fits, comparisons and what was left out; strict JSON."""
    fits = [
        {"curve": str(curve), **asdict(fit)}
        for curve in found.curves
        for fit in curve.fits
    ]
    versus = [
        {
            "cell": str(v.jax),
            "against": str(v.torch),
            "jax_over_torch": asdict(v.difference.ratio),
            "verdict": v.difference.verdict,
            "repeats": list(v.difference.repeats),
        }
        for v in found.versus
    ]
    whole = {
        "schema_version": SCHEMA_VERSION,
        "rows": rows(found),
        "fits": fits,
        "jax_against_torch": versus,
        "left_out": [asdict(out) for out in found.left_out],
    }
    return json.dumps(strict_json(whole), indent=1, allow_nan=False) + "\n"


def to_markdown(found: Scaling) -> str:
    """The table as a pull request shows it, a section per curve."""
    parts = []
    for curve in found.curves:
        parts.append(f"### {_cell_text(str(curve))}\n")
        if curve.reason:
            parts.append(f"No speed-up: {_cell_text(curve.reason)}.\n")
        head = ("devices", "batch", "n", "images/s", "speed-up", "efficiency")
        fraction = "s(p)" if curve.regime == "weak" else "e(p)"
        lines = ["| " + " | ".join((*head, fraction)) + " |", "|---:" * 7 + "|"]
        lines += [_line(point) for point in curve.points]
        parts.append("\n".join(lines) + "\n")
        parts += [f"- {_cell_text(sentence)}" for sentence in _fit_sentences(curve)]
        parts += [""] * bool(curve.fits)
    if found.versus:
        parts.append("### JAX against PyTorch\n")
        for v in found.versus:
            ratio = _shown(v.difference.ratio, ".3f")
            said = f"{v.jax}: {ratio} of PyTorch's images/s, {v.difference}"
            parts.append(f"- {_cell_text(said)}")
        parts.append("")
    if found.left_out:
        parts.append("### Left out\n")
        parts += [f"- {_cell_text(f'{o.name}: {o.reason}')}" for o in found.left_out]
        parts.append("")
    return "\n".join(parts)


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
        _shown(point.images_per_second, ",.0f"),
        _shown(point.speedup, ".2f"),
        _shown(point.efficiency, ".3f"),
        _shown(point.serial_fraction, ".4f"),
    )
    return "| " + " | ".join(cells) + " |"


def _fit_sentences(curve: Curve) -> list[str]:
    sentences = []
    for fit in curve.fits:
        if fit.reason:
            sentences.append(f"{fit.law}: no fit, {fit.reason}")
            continue
        values = ", ".join(
            f"{name} {_shown(estimate, '.4g')}"
            for name, estimate in fit.parameters.items()
        )
        sentences.append(
            f"{fit.law}: {values}; {fit.held_out} devices, held out, are "
            f"predicted {fit.prediction_error:+.1%}"
        )
    return sentences


def _shown(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "–"
    value = format(estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({estimate.low:{form}} to {estimate.high:{form}})"


def _cell_text(text: str) -> str:
    """Text that Markdown shows as it is: names are the user's, and may hold HTML."""
    for character in r"\`*_[]<>&|#~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _unformulated(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, made plain by a quote."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if formula else value
