"""The four arrays of a dataset: their requirements and their fingerprint."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recipe.errors import DataError

HASH_CHUNK = 1 << 24  # bytes; keeps a memory-mapped array out of memory while hashed


class Arrays(NamedTuple):
    """Images are uint8 (n, h, w, c); labels int32 (n,), or float64 (n,) targets."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def fingerprint(arrays: Arrays) -> str:
    """SHA-256 of the content: dtype, shape and bytes of the four arrays, in order.

    It does not depend on the dataset's name or source, so two sources of the same
    examples in the same order agree.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, content.size, HASH_CHUNK):
            digest.update(content[start : start + HASH_CHUNK].data)
    return digest.hexdigest()


def check(
    arrays: Arrays,
    image_shape: Sequence[int],
    classes: int,
    names: Sequence[str] = Arrays._fields,
) -> None:
    """Refuse arrays that do not match a config.

    Args:
      image_shape: (height, width, channels).
      classes: labels lie in [0, classes); 0 means finite real targets.
      names: of the four arrays in messages, such as the files that they came from.

    Raises:
      DataError: naming the array, what it contains and what it should.
    """
    for split in 0, 2:  # train, test
        images, labels = arrays[split : split + 2]
        images_name, labels_name = names[split : split + 2]
        _check_images(images, image_shape, images_name)
        _check_labels(labels, classes, labels_name)
        if len(images) != len(labels):
            raise DataError(
                f"{images_name} has {len(images)} examples, "
                f"but {labels_name} has {len(labels)}"
            )


def _check_images(images: np.ndarray, image_shape: Sequence[int], name: str) -> None:
    if images.dtype != np.uint8:
        raise DataError(f"{name} must be uint8, got {images.dtype}")
    if images.shape[1:] != tuple(image_shape):
        raise DataError(
            f"{name} holds images of shape {list(images.shape[1:])}, "
            f"but data.image_shape={list(image_shape)}"
        )
    if len(images) == 0:
        raise DataError(f"{name} is empty; at least one example is needed")


def _check_labels(labels: np.ndarray, classes: int, name: str) -> None:
    dtype = np.dtype(np.int32 if classes else np.float64)
    if labels.dtype != dtype or labels.ndim != 1:
        raise DataError(
            f"{name} must be {dtype} of shape (n,) with data.classes={classes}, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if classes:
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        allowed = f"in [0, {classes})"
    else:
        wrong = np.flatnonzero(~np.isfinite(labels))
        allowed = "finite"
    if wrong.size:
        raise DataError(
            f"{name}[{wrong[0]}] = {labels[wrong[0]]} is not {allowed}; "
            f"{wrong.size} of {labels.size} labels are wrong"
        )
