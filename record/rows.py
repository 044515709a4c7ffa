"""The rows of `metrics.jsonl`: made from a window's numbers, and read after a kill.

`record/run.py` reads those of a finished run and checks each field.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipe.batch_plan import BatchPlan, Window
from recipe.clients import RoundPlan
from recipe.config import Config
from recipe.errors import RecordError
from recipe.local_rounds import round_bytes
from record.clock import Times
from record.disk import parse_json, recording
from record.schema import ROWS

Row = dict[str, Any]


def step_rows(
    window: Window,
    plan: BatchPlan,
    *,
    losses: np.ndarray,
    learning_rates: list[float],
    grad_norms: np.ndarray,
    loss_scales: Sequence[float] | np.ndarray,
    skipped: Sequence[bool] | np.ndarray,
) -> list[Row]:
    """A row for each step of a window.

    Args:
      plan: whose window it is.
      losses, learning_rates, grad_norms, loss_scales, skipped: one per step.
    """
    return [
        {
            "kind": "step",
            "step": step + 1,
            "epoch": plan.epoch(step) + 1,
            "loss": float(loss),
            "learning_rate": rate,
            "grad_norm": float(norm),
            "loss_scale": float(scale),
            "skipped": bool(skip),
            "examples": plan.examples_in(range(step + 1)),
        }
        for step, loss, rate, norm, scale, skip in zip(
            window.steps,
            losses,
            learning_rates,
            grad_norms,
            loss_scales,
            skipped,
            strict=True,
        )
    ]


def window_row(
    steps: range, plan: BatchPlan, times: Times, *, warmup: bool, measured: bool
) -> Row:
    """The row of a timed window."""
    slowest = float(max(times.seconds))
    return {
        "kind": "window",
        "step": steps.stop,
        "steps": len(steps),
        "seconds": slowest,
        "step_seconds": slowest / len(steps),
        "rank_seconds": [float(own) for own in times.seconds],
        "data_seconds": float(times.data_seconds),
        "dispatch_seconds": float(times.dispatch_seconds),
        "images_per_second": plan.examples_in(steps) / slowest,
        "warmup": warmup,
        "measured": measured,
    }


def round_rows(
    config: Config, world_size: int, rounds: Sequence[tuple[int, int, np.ndarray]]
) -> list[Row]:
    """A row for each round of local SGD in a window.

    Args:
      rounds: the step that it follows, its fragment, and of each replica the
        pseudo-gradient's 2-norm, which is the same for all, and its squared distance to
        the average.
    """
    return [
        {
            "kind": "round",
            "step": step,
            "fragment": fragment,
            "bytes": round_bytes(config, fragment, world_size),
            "pseudo_gradient_norm": float(of_replicas[0, 0]),
            "spread": float(np.sqrt(of_replicas[:, 1].mean())),
        }
        for step, fragment, of_replicas in rounds
    ]


def federated_rows(window: Window, plan: RoundPlan, weight_bytes: int) -> list[Row]:
    """A row for each federated round of a window: what its clients send and receive.

    Args:
      weight_bytes: of all leaves that training moves.
    """
    rows = []
    for step in window.steps:
        clients = len(plan.chosen(step))
        rows.append(
            {
                "kind": "federated",
                "step": step + 1,
                "clients": clients,
                "examples": plan.examples_in(range(step, step + 1)),
                "bytes_down": clients * weight_bytes,
                "bytes_up": clients * weight_bytes,
            }
        )
    return rows


def evaluation_row(window: Window, metrics: dict[str, Any]) -> Row:
    """The row of the evaluation that follows a window; without its confusion matrix."""
    scores = {k: v for k, v in metrics.items() if k != "confusion"}
    place = {"step": window.steps.stop, "epoch": window.epoch + 1}
    return {"kind": "evaluation", **place, **scores}


def whole_rows(file: Path) -> list[Row]:
    """The readable rows of a `metrics.jsonl`; skips everything else."""
    rows = []
    with contextlib.suppress(OSError):
        for line in file.read_bytes().split(b"\n")[:-1]:
            with contextlib.suppress(RecordError):
                rows.append(parse_json(line, file))
    return [row for row in rows if isinstance(row, dict)]


def last_step(file: Path) -> int:
    """The last step that any attempt of a run has recorded."""
    rows = [row for row in whole_rows(file) if row.get("measured") is not True]
    steps = [row.get(key) for row in rows for key in ("step", "again_until")]
    return max((step for step in steps if type(step) is int), default=0)


def rows_until(file: Path, step: int) -> bytes:
    """The lines of a `metrics.jsonl` up to a step, byte for byte.

    An incomplete last line, of a killed writer, is skipped.

    Raises:
      RecordError: if another line is broken, or a step is missing or repeated.
    """
    with recording(file, "read"):
        content = b"" if step == 0 and not file.exists() else file.read_bytes()
    *lines, _ = content.split(b"\n")  # what follows the last line's end is partial
    kept, steps = [], []
    for number, line in enumerate(lines, start=1):
        where = f"{file} line {number}"
        row = parse_json(line, where)
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise RecordError(f"{where} has no step")
        if str(row.get("kind")) not in ROWS:
            raise RecordError(f"{where} is of unknown kind ({', '.join(ROWS)})")
        if row["step"] <= step:
            kept.append(line + b"\n")
            steps += [row["step"]] * (row.get("kind") == "step")
    if steps != list(range(1, step + 1)):
        raise RecordError(
            f"{file} does not hold steps 1 to {step} once each and in order; "
            "give run.resume=PATH an earlier checkpoint, or another run.dir"
        )
    return b"".join(kept)
