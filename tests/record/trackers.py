"""What a run tells its trackers, and where it went."""

import math
from pathlib import Path

from record import tracking
from tests.record.runs import config

CANARY = "canary" + "0123456789abcdef" * 3


def metrics() -> list[dict]:
    """Rows of every kind, some of them such as a diverging run writes."""
    rows = []
    for step in range(1, 401):
        rows.append(
            {
                "kind": "step",
                "step": step,
                "epoch": step // 100,
                "loss": 1 / (3 * step),
                "learning_rate": 1e-300,
                "grad_norm": math.nan if step > 398 else 0.1 + 0.2,
                "loss_scale": 8.0,
                "skipped": step == 2,
                "examples": 8 * step,
            }
        )
    window = {"steps": 200, "seconds": 0.5, "images_per_second": 3200.0}
    test = {"loss": math.inf, "accuracy": 0.25, "precision": -math.inf, "recall": 1.0}
    rows.append({"kind": "window", "step": 200, **window, "warmup": True})
    rows.append({"kind": "window", "step": 400, **window, "warmup": False})
    rows.append({"kind": "round", "step": 400, "fragment": 0, "spread": math.nan})
    rows.append({"kind": "evaluation", "step": 400, "epoch": 3, **test, "f1": None})
    return rows


def open_tracker(
    run_dir: Path, tracker: str, *, rows: list[dict] | None = None, **fields
) -> tracking.Tracker:
    run_dir.mkdir(exist_ok=True)
    return tracking.open_tracker(
        config(tracker, **fields),
        run_dir=run_dir,
        framework="pytorch",
        world_size=2,
        resolved={"train": {"epochs": None, "steps": 400}},
        environment={"torch": "2.14"},
        rows=rows or [],
    )


def attempt(*steps: int, loss: float = 0.5) -> list[dict]:
    """Rows as an attempt logs them: a step's, and every second step a window's."""
    rows: list[dict] = []
    for step in steps:
        rows.append({"kind": "step", "step": step, "loss": loss})
        if step % 2 == 0:
            rows.append({"kind": "window", "step": step, "seconds": loss})
    return rows


# Killed after step 7, the run resumes after step 4, with other numbers.
BEFORE, KILLED = attempt(1, 2, 3, 4), attempt(5, 6, 7)


def files_with(text: str, folder: Path) -> list[Path]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return [p for p in files if text.encode() in p.read_bytes()]
