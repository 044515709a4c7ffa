"""Scores of predictions, compared with those worked out by hand."""

import numpy as np
import pytest
from scipy.stats import binom

from recipe.errors import RecordError
from record.metrics import class_scores
from report.analysis.evaluation import (
    MOST_MISTAKES,
    expected_calibration_error,
    reliability,
    score,
    worst_mistakes,
)
from report.analysis.intervals import fraction_estimate

CLASSES = 5


@pytest.fixture
def found():
    """Labels, and outputs that are often right and never of the last class."""
    generator = np.random.default_rng(0)
    labels = generator.integers(CLASSES, size=300, dtype=np.int32)
    outputs = generator.normal(size=(300, CLASSES)).astype(np.float32)
    outputs[np.arange(300), labels] += 1
    outputs[:, -1] = -9
    return labels, outputs


def test_scores_are_those_that_a_run_records(found):
    labels, outputs = found
    scores = score(*found, CLASSES)
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (labels, outputs.argmax(axis=1)), 1)
    assert scores.confusion == tuple(map(tuple, confusion.tolist()))
    for name, value in class_scores(confusion).items():
        assert getattr(scores, name) == pytest.approx(value, abs=1e-15)
    exact = np.exp(outputs.astype(np.float64))
    of_label = exact[np.arange(300), labels] / exact.sum(axis=1)
    assert scores.loss == pytest.approx(-np.log(of_label).mean(), rel=1e-12)
    assert [c.examples for c in scores.classes] == confusion.sum(axis=1).tolist()
    never = scores.classes[-1]
    assert (never.precision, never.recall, never.f1) == (0, 0, 0) and never.examples


def test_a_class_by_hand():
    outputs = np.eye(3)[[0, 0, 1, 1, 1, 2]]
    first, second, third = score(np.array([0, 1, 1, 1, 0, 2]), outputs, 3).classes
    assert (first.precision, first.recall, first.f1) == (0.5, 0.5, 0.5)
    assert (second.precision, second.recall) == pytest.approx((2 / 3, 2 / 3))
    assert (third.precision, third.recall, third.examples) == (1, 1, 1)


def test_the_calibration_error_by_hand():
    # Of four at 0.9 three are right, of two at 0.55 one: (4 x .15 + 2 x .05) / 6.
    confidence = np.array([0.9] * 4 + [0.55] * 2)
    right = np.array([True, True, True, False, True, False])
    bins = reliability(confidence, right)
    assert len(bins) == 15 and sum(b.examples for b in bins) == 6
    assert expected_calibration_error(bins) == pytest.approx(0.7 / 6)


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(size=200_000)
    right = generator.uniform(size=200_000) < confidence
    assert expected_calibration_error(reliability(confidence, right)) < 5e-3
    assert expected_calibration_error(reliability(confidence, ~right)) > 0.4


def test_an_edge_belongs_to_the_bin_below_it():
    bins = reliability(np.array([0.0, 0.2, 0.2001, 1.0]), np.ones(4, bool), bins=5)
    assert [b.examples for b in bins] == [2, 1, 0, 0, 1]


def test_the_worst_mistakes_are_wrong_and_the_most_confident_come_first():
    labels, predicted = np.zeros(60, int), np.ones(60, int)
    predicted[::2] = 0  # right
    confidence = np.linspace(0.5, 1, 60)
    worst = worst_mistakes(labels, predicted, confidence)
    assert len(worst) == MOST_MISTAKES
    assert [m.example for m in worst] == list(range(59, 59 - 2 * MOST_MISTAKES, -2))
    assert worst[0].confidence == 1 and worst[0].predicted == 1
    assert worst_mistakes(labels, labels, confidence) == ()


def test_an_output_that_is_not_finite_is_refused(found):
    labels, outputs = found
    outputs[7, 2] = np.nan
    with pytest.raises(RecordError, match="of 1 of 300 test examples are not finite"):
        score(labels, outputs, CLASSES)


def test_a_regression_has_a_loss_alone():
    scores = score(np.array([1.0, 2.0]), np.array([[1.5], [2.0]]), classes=0)
    assert scores.loss == 0.125 and scores.accuracy is scores.ece is None
    assert scores.accuracy_estimate is None and scores.mistakes == ()


@pytest.mark.parametrize("chance", [0.5, 0.97, 1.0])
def test_the_interval_holds_the_chance_of_being_right_as_often_as_it_says(chance):
    counts = np.arange(201)
    ends = [fraction_estimate(right, 200) for right in counts.tolist()]
    held = np.array([end.low <= chance <= end.high for end in ends])
    assert binom.pmf(counts, 200, chance)[held].sum() >= 0.95
