"""Has each exported file loaded and compared by a process without Duet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Bool, Float

from launch.outside import outside
from recipe.errors import DuetError
from recipe.formats import FORMATS
from recipe.weights import Weights
from report.analysis.intervals import accuracy_fall, fraction_estimate

# Largest difference of a logit, absolute and relative to the largest logit.
ABSOLUTE, RELATIVE = 1e-4, 1e-5


def check_file(
    format: str,
    path: Path,
    work: Path,
    logits: Float[np.ndarray, "N K"],
    labels: np.ndarray | None,
) -> dict[str, Any]:
    """What a process without Duet finds in the file, compared with the trained model.

    Args:
      work: the folder of images.npy, the whole test set.
      logits: the trained model's of these images.
      labels: of the images; None for a regression.

    Raises:
      DuetError: if its logits are not the trained model's, or depend on the batch.
    """
    found_file, facts_file = work / f"{format}-logits.npy", work / "measured.json"
    outside(format, path, work / "images.npy", found_file, facts_file)
    found, facts = np.load(found_file), json.loads(facts_file.read_text())
    allowed = max(ABSOLUTE, RELATIVE * float(np.abs(logits).max()))
    if found.shape != logits.shape:
        raise _failure(f"{format}: logits of shape {found.shape}, not {logits.shape}")
    if not np.isfinite(found).all():
        raise _failure(f"{format}: loaded without Duet, its logits are not finite")
    difference = float(np.abs(found - logits).max())
    if not FORMATS[format].int8 and not difference <= allowed:
        raise _failure(
            f"{format}: loaded without Duet, its logits differ from the trained "
            f"model's by up to {difference:.1e}, more than {allowed:.1e}"
        )
    if FORMATS[format].batch_alone and not facts["batch_difference"] <= allowed:
        raise _failure(
            f"{format}: its logits depend on the batch size, by up to "
            f"{facts['batch_difference']:.1e}, more than {allowed:.1e}"
        )
    right = right_of(found, labels)
    return {
        "examples": len(found),
        "logit_difference": difference,
        "allowed": None if FORMATS[format].int8 else allowed,
        **scores(right),
        **(fall(right_of(logits, labels), right) if FORMATS[format].int8 else {}),
        **facts,
    }


def _failure(text: str) -> DuetError:
    failure = DuetError(f"{text}; nothing was written")
    failure.exit_status = 1
    return failure


def check_weights_file(path: Path, weights: Weights) -> dict[str, Any]:
    """Every array is there, bit for bit.

    Raises:
      DuetError: naming one that is not.
    """
    found = safetensors.numpy.load_file(path)
    for name in weights.keys() | found.keys():
        if name not in found or not np.array_equal(found[name], weights[name]):
            raise _failure(f"safetensors: {name} is not the trained model's")
    return {"arrays": len(found)}


def right_of(
    logits: Float[np.ndarray, "N K"], labels: np.ndarray | None
) -> Bool[np.ndarray, " N"] | None:
    """Which examples are classified rightly; None for a regression."""
    return None if labels is None else logits.argmax(axis=1) == labels


def scores(right: Bool[np.ndarray, " N"] | None) -> dict[str, Any]:
    """Accuracy, with its count and its 95 % interval; empty for a regression."""
    if right is None:
        return {}
    correct = int(right.sum())
    accuracy = fraction_estimate(correct, len(right))
    return {
        "correct": correct,
        "accuracy": accuracy.value,
        "accuracy_interval": [accuracy.low, accuracy.high],
    }


def fall(
    before: Bool[np.ndarray, " N"] | None, after: Bool[np.ndarray, " N"] | None
) -> dict[str, Any]:
    """How far accuracy is below the trained model's; empty for a regression.

    Args:
      before, after: whether the trained model, and the file, are right.
    """
    if before is None or after is None:
        return {}
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    found = accuracy_fall(lost, won, len(after))
    return {
        "accuracy_fall": found.value,
        "accuracy_fall_interval": [found.low, found.high],
    }
