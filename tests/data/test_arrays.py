"""The fingerprint names the content alone, and `check` names the first thing wrong."""

import numpy as np
import pytest

from data import arrays as module
from data.arrays import Arrays, check, fingerprint
from recipe.errors import DataError


def small() -> Arrays:
    return Arrays(
        np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1),
        np.arange(5, dtype=np.int32),
        np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2, 1),
        np.arange(3, dtype=np.int32),
    )


def test_equal_content_has_equal_fingerprints_wherever_it_lies(tmp_path):
    np.save(tmp_path / "images.npy", small().train_images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert fingerprint(small()._replace(train_images=mapped)) == fingerprint(small())


def test_the_size_of_a_hashed_chunk_does_not_show(monkeypatch):
    whole = fingerprint(small())
    monkeypatch.setattr(module, "HASH_CHUNK", 3)
    assert fingerprint(small()) == whole


def one_pixel(a: Arrays) -> Arrays:
    a.test_images[2, 1, 1, 0] += 1
    return a


CHANGES = {
    "one pixel": one_pixel,
    "two examples swapped": lambda a: a._replace(train_images=a.train_images[::-1]),
    "one label": lambda a: a._replace(test_labels=a.test_labels[::-1]),
    "shape": lambda a: a._replace(train_images=a.train_images.reshape(5, 4, 1, 1)),
    "dtype": lambda a: a._replace(train_labels=a.train_labels.view(np.uint32)),
    "train and test swapped": lambda a: Arrays(*a[2:], *a[:2]),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_any_change_of_content_changes_the_fingerprint(kind):
    assert fingerprint(CHANGES[kind](small())) != fingerprint(small())


def test_arrays_as_configured_pass():
    check(small(), [2, 2, 1], classes=5)
    targets = [labels.astype(np.float64) for labels in small()[1::2]]
    check(
        small()._replace(train_labels=targets[0], test_labels=targets[1]), [2, 2, 1], 0
    )


def with_labels(*labels: float, dtype: type = np.int32):
    return lambda a: a._replace(test_labels=np.array(labels, dtype))


WRONG = {
    "shape": (
        lambda a: a._replace(test_images=a.test_images.reshape(3, 4, 1, 1)),
        r"test_images holds images of shape \[4, 1, 1\].*image_shape=\[2, 2, 1\]",
    ),
    "no channel axis": (
        lambda a: a._replace(train_images=a.train_images[..., 0]),
        r"train_images holds images of shape \[2, 2\]",
    ),
    "float pixels": (
        lambda a: a._replace(train_images=a.train_images / 255),
        "train_images must be uint8, got float64",
    ),
    "empty": (
        lambda a: a._replace(test_images=a.test_images[:0], test_labels=a[3][:0]),
        "test_images is empty",
    ),
    "counts": (
        lambda a: a._replace(train_labels=a.train_labels[:4]),
        "train_images has 5 examples, but train_labels has 4",
    ),
    "too large": (with_labels(0, 5, 6), r"test_labels\[1\] = 5 .*\[0, 5\); 2 of 3"),
    "negative": (with_labels(0, 1, -1), r"test_labels\[2\] = -1 is not in \[0, 5\)"),
    "int64": (with_labels(0, 1, 2, dtype=np.int64), "test_labels must be int32"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named(kind):
    change, message = WRONG[kind]
    with pytest.raises(DataError, match=message):
        check(change(small()), [2, 2, 1], classes=5)


def test_targets_must_be_finite():
    labels = small().train_labels.astype(np.float64)
    arrays = small()._replace(train_labels=labels, test_labels=np.array([0, 1, np.nan]))
    with pytest.raises(DataError, match=r"test_labels\[2\] = nan is not finite"):
        check(arrays, [2, 2, 1], classes=0)
