"""How far two records are apart: losses, weights, test scores, and the controls'.

The controls are runs of a framework whose initial weights were moved by one unit in the
last place: how far they are from their originals is what rounding alone makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float

from recipe.errors import RecordError
from recipe.weights import Weights
from record.run import Run, averaged
from report.parity.bounds import CONFIDENCE, LOST


def relative_difference(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """|a - b| / max(|a|, |b|), elementwise; 0 where both are the same, NaN included.

    >>> relative_difference(np.array([1.0, 0.0]), np.array([1.5, 0.0])).round(3)
    array([0.333, 0.   ])
    """
    scale = np.maximum(np.abs(a), np.abs(b))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.abs(a - b) / scale
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    # A number against NaN or infinity is as different as can be.
    return np.where(same, 0.0, np.nan_to_num(difference, nan=np.inf))


def leaf_differences(a: Weights, b: Weights) -> dict[str, float]:
    """Each parameter's largest absolute difference over its largest absolute value.

    An average that one run alone keeps is skipped: its recipe says so.

    Raises:
      RecordError: if the runs do not have the same parameters, naming the first.
    """
    names = [name for name in a | b if name in a and name in b or not averaged(name)]
    for name in sorted(names):
        shapes = [w[name].shape if name in w else "absent" for w in (a, b)]
        if shapes[0] != shapes[1]:
            raise RecordError(
                f"parameter {name} is {shapes[0]} in a and {shapes[1]} in b; compare "
                "runs of one model"
            )

    def apart(name: str) -> float:
        finite = all(np.isfinite(w[name]).all() for w in (a, b))
        return largest_difference(a[name], b[name]) if finite else np.inf

    return {name: apart(name) for name in names}


def largest_difference(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], scale: float = 0.0
) -> float:
    """Largest absolute difference over the largest absolute value, or over the scale.

    Arrays of different shapes are infinitely far apart, and so is a number from one
    that is not finite; infinities of one sign, and NaNs, are the same.

    >>> largest_difference(np.array([1.0, 4.0]), np.array([2.0, 4.0]))
    0.25
    """
    if a.shape != b.shape:
        return np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.isfinite(a[~same]).all() or not np.isfinite(b[~same]).all():
        return np.inf
    difference = size(a[~same] - b[~same])
    return difference / max(scale, largest_finite(a, b)) if difference else 0.0


def largest_finite(*arrays: Float[np.ndarray, "..."]) -> float:
    """The largest absolute value of those that have not overflowed, as in fp16."""
    return max((size(a[np.isfinite(a)]) for a in arrays), default=0.0)


def size(array: Float[np.ndarray, "..."]) -> float:
    """The largest absolute value."""
    return float(np.abs(array).max(initial=0.0))


def losses(run: Run) -> Float[np.ndarray, " steps"]:
    """The training loss of every step."""
    return np.array([row["loss"] for row in run.of_kind("step")], np.float64)


def score(run: Run) -> float:
    """Test accuracy, or the negated test loss where there are no classes."""
    test = run.summary["test"]
    return -test["loss"] if test["accuracy"] is None else test["accuracy"]


@dataclass(frozen=True)
class Envelope:
    """How far controls, which differ by rounding alone, are from their originals.

    Args:
      losses: largest relative difference of any control up to each step.
      leaves: parameter name -> largest relative difference at the end.
      scores: framework -> test accuracies of its controls and their original, without
        classes negated test losses, shape (runs,). Not of both frameworks together:
        two that are apart would widen the interval that is to tell them apart.
      examples: in the test set.
      chance: the score of a guess; without classes minus infinity.
    """

    losses: Float[np.ndarray, " steps"]
    leaves: dict[str, float]
    scores: dict[str, Float[np.ndarray, " runs"]]
    examples: int
    chance: float

    @property
    def lost(self) -> int | None:
        """The first step, from 1, at which a control has lost the trajectory."""
        above = self.losses > LOST
        return int(np.argmax(above)) + 1 if above.any() else None

    def score_interval(self, framework: str) -> tuple[float, float]:
        """Where the score of one more run of the framework lies with 99 % confidence.

        Student's prediction interval over its controls, and never narrower than one
        test example on either side, which is accuracy's own resolution.
        """
        scores = self.scores[framework]
        n, mean = len(scores), float(scores.mean())
        spread = float(scores.std(ddof=1)) if n > 1 else 0.0
        quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, max(n - 1, 1)))
        half = max(quantile * spread * np.sqrt(1 + 1 / n), 1 / self.examples)
        return mean - half, mean + half


def envelope(pairs: Sequence[tuple[Run, Run]]) -> Envelope:
    """The envelope of controls, each paired with its original."""
    curves = [relative_difference(losses(a), losses(b)) for a, b in pairs]
    leaves = [leaf_differences(a.weights, b.weights) for a, b in pairs]
    every = {id(run): run for pair in pairs for run in pair}.values()
    scores: dict[str, list[float]] = {}
    for run in every:
        scores.setdefault(run.summary["framework"], []).append(score(run))
    confusion = pairs[0][0].summary["test"]["confusion"]
    return Envelope(
        np.maximum.accumulate(np.max(curves, axis=0)),
        {name: max(leaf[name] for leaf in leaves) for name in leaves[0]},
        {name: np.array(values) for name, values in scores.items()},
        int(np.sum(confusion)) if confusion else 1_000_000,
        1 / len(confusion) if confusion else -np.inf,
    )
