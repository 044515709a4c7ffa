"""Metrics computed from a run's raw sums: class metrics and throughput."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def evaluation_metrics(
    loss_sums: Float[np.ndarray, " batches"],
    confusions: Int[np.ndarray, "batches K K"],
    examples: int,
) -> dict[str, Any]:
    """The metrics of one evaluation from its batches' sums over all ranks.

    Args:
      loss_sums: sum of the batch's losses; in nats, or squared units of the target.
      confusions: counts of true class i predicted as j; K = 0 without classes.
      examples: in the split; each counted once.

    Returns:
      loss (mean), accuracy, macro precision, recall and F1, each in [0, 1], and the
      confusion matrix; all but the loss are None without classes.
    """
    loss = float(loss_sums.astype(np.float64).sum() / examples)
    confusion = confusions.astype(np.int64).sum(axis=0)
    names = ("accuracy", "precision", "recall", "f1")
    if confusion.size == 0:
        return {"loss": loss, **dict.fromkeys(names), "confusion": None}
    if confusion.sum() != examples:
        raise AssertionError(f"{confusion.sum()} of {examples} examples were counted")
    scores = class_scores(confusion)
    return {"loss": loss, **scores, "confusion": confusion.tolist()}


def class_scores(confusion: Int[np.ndarray, "K K"]) -> dict[str, float]:
    """Accuracy and the unweighted means of precision, recall and F1 over classes.

    A class that was never predicted has precision 0, one without examples recall 0.

    >>> class_scores(np.array([[3, 1], [0, 4]]))["precision"]
    0.9
    """
    right, examples = np.diagonal(confusion), confusion.sum(axis=1)
    predicted = confusion.sum(axis=0)
    scores = {
        "accuracy": right.sum() / confusion.sum(),
        "precision": _ratios(right, predicted).mean(),
        "recall": _ratios(right, examples).mean(),
        "f1": _ratios(2 * right, examples + predicted).mean(),
    }
    return {name: float(score) for name, score in scores.items()}


def _ratios(
    counts: Int[np.ndarray, " K"], of: Int[np.ndarray, " K"]
) -> Float[np.ndarray, " K"]:
    """Quotients, 0 where the denominator is 0."""
    return np.divide(counts, of, out=np.zeros(len(of)), where=of > 0)


def median_throughput(windows: list[dict[str, Any]]) -> dict[str, Any]:
    """Images per second: the median over timed windows, and those windows' rates.

    The windows timed after the training, if any; else those of the training except its
    warm-up. Without any the median is None.
    """
    measured = [w for w in windows if w["measured"]]
    timed = measured or [w for w in windows if not w["warmup"]]
    rates = [w["images_per_second"] for w in timed]
    return {"median": float(np.median(rates)) if rates else None, "windows": rates}
