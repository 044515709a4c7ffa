"""What a run trained: its final weights, or those of one of its checkpoints.

Whoever trained it. Where the run evaluates an average of the weights, this is that.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.config import Config
from recipe.errors import RecordError
from recipe.own_model import check_own_model
from recipe.study import FRAMEWORKS
from recipe.weights import Weights, weight_shapes
from record.checkpoint import (
    Checkpoint,
    best_checkpoint,
    checkpoint_folder,
    checkpoint_step,
    newest_checkpoint,
    read_checkpoint,
    saved_checkpoints,
)
from record.resume import check_fit, config_of
from record.run import (
    FINAL,
    check_run_folder,
    read_environment,
    read_summary,
    read_weights,
)

LAST, BEST = "last", "best"  # instead of a checkpoint's step


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Weights of a run, and what is known of them.

    Args:
      run: its folder.
      config: of the run.
      framework: that trained it, "torch" or "jax".
      name: of the weights, "final" or "step-00000020".
      step: optimizer steps done; None if the run has no summary.
      weights: canonical arrays; their average where the run evaluates that.
      test: the test metrics that the run recorded for them, if it did.
      data_fingerprint: of the dataset that it was trained on, if known.
      skipped: why each newer checkpoint was not taken.
    """

    run: Path
    config: Config
    framework: str
    name: str
    step: int | None
    weights: Weights
    test: dict[str, Any] | None
    data_fingerprint: str | None
    skipped: tuple[str, ...] = ()


def read_trained(run: Path, checkpoint: str | None = None) -> Trained:
    """The final weights of a run, or those of a checkpoint. Changes nothing.

    Args:
      checkpoint: "last" for the newest valid one, "best" for that with the best test
        score at its own step, or a step; None for the final weights.

    Raises:
      DuetError: if it is not a run folder, has no such weights, or they do not fit
        the run's model.
    """
    if run.is_dir() and (step := checkpoint_step(run)) is not None:
        raise RecordError(
            f"run={run} is a checkpoint; give run={run.parent.parent} checkpoint={step}"
        )
    check_run_folder("run", run)
    found = _final(run) if checkpoint is None else _of_checkpoint(run, checkpoint)
    if found.framework not in FRAMEWORKS:
        raise RecordError(
            f"run={run}: framework is {found.framework!r}, expected one of "
            f"{', '.join(FRAMEWORKS)}"
        )
    check_own_model(found.config.model.folder)
    check_fit(
        f"{run}: the {found.name} weights do not fit {found.config.model.name}:",
        found.weights,
        weight_shapes(found.config),
        "they are of another model than config.yaml",
    )
    return found


def _final(run: Path) -> Trained:
    ended = (run / "summary.json").exists()
    summary = read_summary(run) if ended else None
    if not (run / FINAL).exists():
        how = "was killed or still runs" if summary is None else summary["status"]
        raise RecordError(f"run={run} {how}: it has no {FINAL}; {_other_weights(run)}")
    weights = read_weights(run / FINAL)
    return Trained(
        run=run,
        config=config_of(run),
        framework=read_environment(run)["framework"],
        name="final",
        step=None if summary is None else summary["steps"],
        weights=weights,
        test=None if summary is None else summary["test"],
        data_fingerprint=None if summary is None else summary["data_fingerprint"],
    )


def _of_checkpoint(run: Path, wanted: str) -> Trained:
    found, skipped = _checkpoint(run, wanted)
    config, test = config_of(run), found.test
    averages = config.optim.ema_decay is not None and "average" in found.arrays
    return Trained(
        run=run,
        config=config,
        framework=found.framework,
        name=checkpoint_folder(run, found.step).name,
        step=found.step,
        weights=found.arrays["average" if averages else "weights"],
        test=test if test is not None and test["step"] == found.step else None,
        data_fingerprint=found.data_fingerprint,
        skipped=tuple(skipped),
    )


def _checkpoint(run: Path, wanted: str) -> tuple[Checkpoint, list[str]]:
    """The checkpoint, and why each newer one was skipped."""
    if wanted == LAST:
        found, skipped = newest_checkpoint(run)
        if found is None:
            reasons = "".join(f"; {reason}" for reason in skipped)
            raise RecordError(f"run={run} holds no valid checkpoint{reasons}")
        return found, skipped
    if wanted == BEST:
        best = best_checkpoint(run)
        if best is None:
            raise RecordError(
                f"run={run} has no checkpoint of a step that was evaluated, so none is "
                f"the best; {_saved(run)}"
            )
        return read_checkpoint(best), []
    if not (wanted.isascii() and wanted.isdigit()):
        raise RecordError(
            f"checkpoint={wanted} is unknown; give {LAST}, {BEST} or a step: "
            f"{_saved(run)}"
        )
    path = checkpoint_folder(run, int(wanted))
    if not path.exists():
        raise RecordError(f"checkpoint={wanted} is not in {run}; {_saved(run)}")
    return read_checkpoint(path), []


def _other_weights(run: Path) -> str:
    if not saved_checkpoints(run):
        return "nor has it a checkpoint, so there is nothing to evaluate"
    return f"checkpoint={LAST} takes its newest checkpoint; {_saved(run)}"


def _saved(run: Path) -> str:
    """The steps that were saved."""
    steps = sorted(checkpoint_step(path) or 0 for path in saved_checkpoints(run))
    return f"saved steps: {', '.join(map(str, steps))}" if steps else "none was saved"
