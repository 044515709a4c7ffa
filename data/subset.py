"""A part of a training set, `data.train_examples`; the test set stays whole."""

import numpy as np
from jaxtyping import Bool

from data.arrays import Arrays
from recipe.errors import ConfigError
from recipe.experiment import DataConfig


def take(arrays: Arrays, data: DataConfig) -> Arrays:
    """The arrays with `data.train_examples` training examples, in their order.

    Raises:
      ConfigError: if there are fewer.
    """
    count, there = data.train_examples, len(arrays.train_labels)
    assert count is not None
    if count > there:
        raise ConfigError(
            f"data.train_examples={count}, and data={data.name} has {there}; ask for "
            f"1 to {there}, or null for all"
        )
    chosen = first_of_each(arrays.train_labels, count, data.classes)
    return arrays._replace(
        train_images=arrays.train_images[chosen],
        train_labels=arrays.train_labels[chosen],
    )


def first_of_each(
    labels: np.ndarray, count: int, classes: int
) -> Bool[np.ndarray, " n"]:
    """Which examples are taken: each class's first, then each one's second, and so on.

    So a smaller part is within a larger one, and no chance is in it. Without classes
    the first examples are taken.

    Args:
      labels: shape (n,).
      classes: 0 for a regression.

    >>> first_of_each(np.array([0, 0, 0, 1, 1, 2]), 4, classes=3)
    array([ True,  True, False,  True, False,  True])
    """
    turn = np.arange(len(labels))  # when each example is taken
    for label in range(classes):
        of_class = labels == label
        turn[of_class] = np.arange(of_class.sum())
    chosen = np.zeros(len(labels), bool)
    chosen[np.argsort(turn, kind="stable")[:count]] = True
    return chosen
