"""An evaluation's files: its numbers, its predictions and its page.

RUN/evaluations/<framework>-<weights>/ holds

    evaluation.json  every score
    index.html       the page, which needs no other file
    predictions.npz  of each test example, in order: its label, its prediction and, with
                     classes, the probability of each

A second evaluation of the same weights gets a folder of its own, -2.
"""

import io
import itertools
import shutil
import tempfile
import uuid
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from record.disk import folder_to_disk, recording, to_json, write_file
from report.analysis.evaluation import Evaluation, probabilities
from report.page.evaluation import page

FOLDER = "evaluations"
JSON, PAGE, PREDICTIONS = "evaluation.json", "index.html", "predictions.npz"


def write_evaluation(
    evaluation: Evaluation,
    images: UInt8[np.ndarray, "N H W C"],
    labels: Shaped[np.ndarray, " N"],
    outputs: Float[np.ndarray, "N K"],
    command: list[str],
) -> Path:
    """Write the evaluation into its run's folder, whole or not at all.

    Args:
      images, labels: of the test set.
      outputs: for them.
      command: what was typed.

    Returns:
      The folder; no earlier one is replaced.

    Raises:
      RecordError: if it cannot be written.
    """
    parent = evaluation.trained.run / FOLDER
    with tempfile.TemporaryDirectory() as drawn:
        content = {
            JSON: to_json(evaluation.to_json()),
            PREDICTIONS: predictions(evaluation, labels, outputs),
            PAGE: page(evaluation, images, command, Path(drawn)).encode(),
        }
    fresh = parent / f".writing-{uuid.uuid4().hex}"
    with recording(parent):
        try:
            fresh.mkdir(parents=True)
            for name, held in content.items():
                write_file(fresh / name, held)
            folder_to_disk(fresh)
            return _named(fresh, f"{evaluation.framework}-{evaluation.trained.name}")
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _named(fresh: Path, name: str) -> Path:
    """The folder under the first free name."""
    for number in itertools.count(1):
        folder = fresh.with_name(name if number == 1 else f"{name}-{number}")
        try:
            fresh.rename(folder)  # which no folder that has files allows
        except OSError:
            if not folder.exists():
                raise
        else:
            folder_to_disk(folder.parent)
            return folder
    raise AssertionError


def predictions(
    evaluation: Evaluation,
    labels: Shaped[np.ndarray, " N"],
    outputs: Float[np.ndarray, "N K"],
) -> bytes:
    """The .npz file of labels, predictions and, with classes, probabilities."""
    if evaluation.trained.config.data.classes:
        found = {"predictions": outputs.argmax(axis=1).astype(labels.dtype)}
        found |= {"probabilities": probabilities(outputs)}
    else:
        found = {"predictions": outputs[:, 0]}
    content = io.BytesIO()
    found = {"labels": labels, **found}
    np.savez_compressed(content, **found)  # pyright: ignore[reportArgumentType]
    return content.getvalue()
