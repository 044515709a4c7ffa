"""Metrics are computed once from sums over all ranks, never as means of means."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from record.metrics import class_scores, evaluation_metrics, median_throughput


def confusion_of(truth, predicted, classes):
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    return confusion


def labels(case):
    """(truth, predicted, classes) of a hundred examples, as a case asks."""
    random = np.random.default_rng(7)
    truth, predicted = random.integers(5, size=(2, 100))
    if case == "half right":
        predicted = np.where(random.random(100) < 0.5, truth, predicted)
    if case == "all right":
        predicted = truth
    if case == "a class never predicted":
        predicted = predicted % 4
    if case == "a class without examples":
        truth = truth % 4
    return truth, predicted, 7 if case == "classes that are in neither" else 5


CASES = [
    "by chance",
    "half right",
    "all right",
    "a class never predicted",
    "a class without examples",
    "classes that are in neither",
]


@pytest.mark.parametrize("case", CASES)
def test_scores_of_the_matrix_are_sklearns_of_the_labels(case):
    truth, predicted, classes = labels(case)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=range(classes), average="macro", zero_division=0
    )
    expected = {"precision": precision, "recall": recall, "f1": f1}
    expected["accuracy"] = accuracy_score(truth, predicted)
    scores = class_scores(confusion_of(truth, predicted, classes))
    assert scores == pytest.approx(expected, rel=1e-12)


def test_a_matrix_with_truth_and_prediction_swapped_would_be_noticed():
    truth, predicted, classes = labels("a class without examples")
    scores = class_scores(confusion_of(truth, predicted, classes))
    swapped = class_scores(confusion_of(predicted, truth, classes))
    assert swapped["recall"] == pytest.approx(scores["precision"])
    assert swapped["recall"] != pytest.approx(scores["recall"])


def test_scores_are_plain_floats_of_the_summed_batches():
    truth, predicted, classes = labels("half right")
    batches = [
        confusion_of(truth[rows], predicted[rows], classes)
        for rows in (slice(0, 48), slice(48, 96), slice(96, 100))
    ]
    whole = confusion_of(truth, predicted, classes)
    metrics = evaluation_metrics(np.ones(3), np.stack(batches), 100)
    assert metrics.pop("confusion") == whole.tolist()
    assert metrics == {"loss": 0.03, **class_scores(whole)}
    assert {type(value) for value in metrics.values()} == {float}


def test_the_mean_loss_is_the_summed_loss_over_the_examples():
    sums = np.array([2**24, 1, 1], np.float32)  # whose float32 sum loses both ones
    metrics = evaluation_metrics(sums, np.zeros((3, 0, 0), np.int32), 2)
    assert metrics["loss"] == (2**24 + 2) / 2
    assert sums.sum() / 2 != metrics["loss"]


def test_without_classes_there_is_a_loss_and_nothing_else():
    metrics = evaluation_metrics(np.array([3.0]), np.zeros((1, 0, 0), np.int32), 6)
    assert metrics.pop("loss") == 0.5
    assert metrics == dict.fromkeys(
        ["accuracy", "precision", "recall", "f1", "confusion"]
    )


@pytest.mark.parametrize("counted", [99, 101])
def test_an_example_missed_or_counted_twice_is_an_error(counted):
    confusions = np.array([[[counted, 0], [0, 0]]])
    with pytest.raises(AssertionError, match=f"{counted} of 100 examples were counted"):
        evaluation_metrics(np.zeros(1), confusions, 100)
    evaluation_metrics(np.zeros(1), confusions, counted)


def windows(*rates, warmup=1, measured=False):
    return [
        {"images_per_second": rate, "warmup": number < warmup, "measured": measured}
        for number, rate in enumerate(rates)
    ]


def test_throughput_is_the_median_of_the_windows_after_warm_up():
    assert median_throughput(windows(1.0, 30.0, 10.0, 20.0)) == {
        "median": 20.0,
        "windows": [30.0, 10.0, 20.0],
    }


def test_throughput_is_of_measured_windows_alone_where_there_are_any():
    measured = windows(40.0, 60.0, warmup=0, measured=True)
    assert median_throughput(windows(1.0, 30.0, 10.0) + measured) == {
        "median": 50.0,
        "windows": [40.0, 60.0],
    }


def test_warm_up_that_counted_would_be_noticed():
    every = median_throughput(windows(1.0, 30.0, 10.0, 20.0, warmup=0))
    assert every["median"] == 15.0


def test_a_run_that_was_all_warm_up_has_no_throughput():
    assert median_throughput(windows(5.0)) == {"median": None, "windows": []}
    assert median_throughput([]) == {"median": None, "windows": []}
