"""Real handwritten digits that need no download: scikit-learn's, brought to 28x28.

1797 images of 8x8 with values 0 to 16, from Alpaydin and Kaynak, Optical Recognition
of Handwritten Digits, UCI 1998. Resizing and splitting are integer arithmetic without
chance, so every machine gets the same bytes.
"""

import numpy as np

from data.arrays import Arrays
from recipe.experiment import DataConfig

REPEAT = 3  # 8x8 -> 24x24
BORDER = 2  # 24x24 -> 28x28, MNIST's size
TEST_EVERY = 5


def load(data: DataConfig) -> Arrays:
    """1438 training and 359 test examples: every fifth one is for the test."""
    from sklearn.datasets import load_digits  # a second of import, wanted only here

    values, target = load_digits(return_X_y=True)
    images = enlarge(np.asarray(values).reshape(-1, 8, 8))
    labels = np.asarray(target).astype(np.int32)
    test = np.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    return Arrays(images[~test], labels[~test], images[test], labels[test])


def enlarge(values: np.ndarray) -> np.ndarray:
    """(n, 8, 8) values in 0..16 -> uint8 (n, 28, 28, 1) pixels in 0..255.

    >>> enlarge(np.full((1, 8, 8), 16.0))[0, 1:4, 14, 0]
    array([  0, 255, 255], dtype=uint8)
    """
    pixels = ((values.astype(np.int32) * 255 + 8) // 16).astype(np.uint8)
    large = pixels.repeat(REPEAT, axis=1).repeat(REPEAT, axis=2)
    border = (BORDER, BORDER)
    return np.pad(large, ((0, 0), border, border))[..., np.newaxis]
