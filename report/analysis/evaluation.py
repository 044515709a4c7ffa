"""How good a model's predictions are: scores, calibration and the worst mistakes.

From each test example's outputs, whichever framework computed them.

Shapes: N examples, K classes.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from recipe.config import recipe_hash
from recipe.errors import RecordError
from recipe.labels import class_labels
from record.schema import strict_json
from record.trained import Trained
from report.analysis.intervals import Estimate, fraction_estimate

BINS = 15  # of confidences, as Guo et al. have them
MOST_MISTAKES = 24

VERSION = 1  # of the JSON


@dataclass(frozen=True)
class ClassScores:
    """One class: its test examples, and how well it is found among the others."""

    label: int
    examples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Bin:
    """The examples whose confidence lies in (low, high].

    Args:
      right: how many of them are predicted correctly.
      confidence: their mean, in [0, 1]; 0 without examples.
    """

    low: float
    high: float
    examples: int
    right: int
    confidence: float


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the example's place in the test set, and the confidence."""

    example: int
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of a test set; without classes the loss alone.

    Args:
      loss: mean over examples, in nats or in squared units of the target.
      precision, recall, f1: unweighted means over classes, in [0, 1].
      ece: the expected calibration error, in [0, 1].
      confusion: counts of true class i predicted as j.
      mistakes: the most confident ones, the worst first.
    """

    examples: int
    loss: float
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    ece: float | None = None
    classes: tuple[ClassScores, ...] = ()
    calibration: tuple[Bin, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def accuracy_estimate(self) -> Estimate | None:
        """The accuracy with its interval over examples; None without classes."""
        if not self.confusion:
            return None
        right = sum(row[label] for label, row in enumerate(self.confusion))
        return fraction_estimate(right, self.examples)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of trained weights.

    Args:
      framework: that evaluated them, "torch" or "jax".
      devices: that it took.
      precision: it computed in.
      data_fingerprint: of the dataset.
    """

    trained: Trained
    framework: str
    devices: int
    precision: str
    data_fingerprint: str
    scores: Scores

    @property
    def labels(self) -> list[str]:
        """What each class is called, in the order of their numbers."""
        return class_labels(self.trained.config.data)

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores has to know."""
        found = [f"skipped: {reason}" for reason in self.trained.skipped]
        before, own = self.trained.data_fingerprint, self.trained.config.precision.name
        if before is not None and before != self.data_fingerprint:
            found.append(
                f"the data are not those that the run recorded: SHA-256 "
                f"{self.data_fingerprint[:12]}, was {before[:12]}"
            )
        if self.precision != own:
            found.append(f"evaluated in {self.precision}, trained in {own}")
        return found

    def to_json(self) -> dict[str, Any]:
        trained, accuracy = self.trained, self.scores.accuracy_estimate
        return {
            "schema_version": VERSION,
            "run": trained.run.resolve().name,
            "experiment": trained.config.name,
            "config_hash": recipe_hash(trained.config),
            "trained_by": trained.framework,
            "evaluated_by": self.framework,
            "weights": trained.name,
            "step": trained.step,
            "devices": self.devices,
            "precision": self.precision,
            "data": trained.config.data.name,
            "data_fingerprint": self.data_fingerprint,
            "labels": self.labels,
            **asdict(self.scores),
            "accuracy_interval": accuracy and [accuracy.low, accuracy.high],
            "recorded": strict_json(trained.test),
            "notes": self.notes,
        }


def probabilities(outputs: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    """The softmax of logits, in fp64."""
    return scipy.special.softmax(outputs.astype(np.float64), axis=1)


def score(
    labels: Int[np.ndarray, " N"] | Float[np.ndarray, " N"],
    outputs: Float[np.ndarray, "N K"],
    classes: int,
) -> Scores:
    """The scores of outputs.

    Args:
      labels: classes, or targets where `classes` is 0.
      outputs: logits, or one value each.

    Raises:
      RecordError: if an output is not finite.
    """
    wrong = int((~np.isfinite(outputs)).any(axis=1).sum())
    if wrong:
        raise RecordError(
            f"the outputs of {wrong} of {len(outputs)} test examples are not finite: "
            "the training of these weights diverged; evaluate an earlier checkpoint"
        )
    exact = outputs.astype(np.float64)
    if not classes:
        loss = float(np.square(exact[:, 0] - labels).mean())
        return Scores(examples=len(labels), loss=loss)
    every = np.arange(classes)
    of_label = exact[np.arange(len(exact)), labels]
    losses = np.asarray(scipy.special.logsumexp(exact, axis=1)) - of_label
    found = probabilities(outputs)
    predicted, confidence = outputs.argmax(axis=1), found.max(axis=1)
    right = predicted == labels
    # Its default tells pyright that zero_division is text.
    per_class = precision_recall_fscore_support(
        *(labels, predicted),
        labels=every,
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    rows = zip(*(np.asarray(column).tolist() for column in per_class), strict=True)
    macro = [float(np.mean(column)) for column in per_class[:3]]
    bins = reliability(confidence, right)
    return Scores(
        examples=len(labels),
        loss=float(losses.mean()),
        accuracy=float(right.mean()),
        precision=macro[0],
        recall=macro[1],
        f1=macro[2],
        ece=expected_calibration_error(bins),
        classes=tuple(
            ClassScores(label, int(examples), *of)
            for label, (*of, examples) in enumerate(rows)
        ),
        calibration=bins,
        confusion=tuple(
            map(tuple, confusion_matrix(labels, predicted, labels=every).tolist())
        ),
        mistakes=worst_mistakes(labels, predicted, confidence),
    )


def reliability(
    confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], bins: int = BINS
) -> tuple[Bin, ...]:
    """Examples by the confidence of their prediction, in bins of equal width.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 1, 2.

    >>> reliability(np.array([0.5, 0.9]), np.array([True, False]), bins=2)[0]
    Bin(low=0.0, high=0.5, examples=1, right=1, confidence=0.5)
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.digitize(confidence, edges[1:-1], right=True)
    inside = [places == place for place in range(bins)]
    return tuple(
        Bin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            examples=int(own.sum()),
            right=int(right[own].sum()),
            confidence=float(confidence[own].mean()) if own.any() else 0.0,
        )
        for place, own in enumerate(inside)
    )


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """The mean over examples of |accuracy - confidence| of their bins.

    Source: Guo et al. 2017, eq. 3.

    >>> bins = reliability(np.array([0.75, 0.75]), np.array([True, False]))
    >>> expected_calibration_error(bins)
    0.25
    """
    gaps = [abs(b.right - b.examples * b.confidence) for b in bins]
    return sum(gaps) / sum(b.examples for b in bins)


def worst_mistakes(
    labels: Int[np.ndarray, " N"],
    predicted: Int[np.ndarray, " N"],
    confidence: Float[np.ndarray, " N"],
) -> tuple[Mistake, ...]:
    """The wrong predictions of the highest confidence, at most `MOST_MISTAKES`."""
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_MISTAKES]
    return tuple(
        Mistake(int(n), int(labels[n]), int(predicted[n]), float(confidence[n]))
        for n in worst
    )
