"""Datasets made from a recipe: `synthetic`, classes of any shape, and `line`, a line.

Both are pure functions of the config, whatever `train.seed` is. Every random quantity
has its own stream, drawn in example order, so that a larger dataset starts with the
examples of a smaller one.
"""

import math
from functools import cache
from statistics import NormalDist

import numpy as np

from data.arrays import Arrays
from recipe.errors import ConfigError
from recipe.experiment import DataConfig
from recipe.rng import keyed_generator

CELLS = (
    4  # a template is 4x4 squares of uniform colour, so that pooling cannot erase it
)
# The fraction of an image that is its own class's template; the rest is another's.
# Below one half the other class dominates: as 0.45 to 0.55 are indistinguishable, any
# model gets one example in eleven wrong, so accuracy stays below 1 for any number of
# pixels.
SHARE = (0.45, 1.0)
CHUNK = 1 << 18  # pixels at a time; their float32 arrays fit a core's cache

SLOPE, INTERCEPT = 3.0, -1.0


def load(data: DataConfig) -> Arrays:
    """Two classes' templates blended, plus Gaussian noise; labels say which leads.

    Raises:
      ConfigError: if `data.classes` is 0.
    """
    if data.classes < 1:
        raise ConfigError(f"data=synthetic needs data.classes >= 1, got {data.classes}")
    cells = templates(data.image_shape[2], data.classes)
    return Arrays(
        *_classes(data, "train", _count(data.train_examples), cells),
        *_classes(data, "test", _count(data.test_examples), cells),
    )


def load_line(data: DataConfig) -> Arrays:
    """y = 3x - 1 plus Gaussian noise, x the sum of an image's pixels in [0, 1].

    Raises:
      ConfigError: if `data.classes` is not 0.
    """
    if data.classes:
        raise ConfigError(
            f"data=line is a regression and needs data.classes=0, got {data.classes}"
        )
    return Arrays(
        *_line(data, "train", _count(data.train_examples)),
        *_line(data, "test", _count(data.test_examples)),
    )


def templates(channels: int, classes: int) -> np.ndarray:
    """The classes' templates, float32 (classes, CELLS, CELLS, channels) in [0, 1)."""
    shape = (CELLS, CELLS, channels)
    return np.stack(
        [
            keyed_generator("synthetic", "template", label).random(shape, np.float32)
            for label in range(classes)
        ]
    )


def spread(cells: np.ndarray, image_shape: list[int]) -> np.ndarray:
    """(n, CELLS, CELLS, c) -> (n, h, w, c), each square enlarged to a rectangle."""
    height, width, _ = image_shape
    rows = np.arange(height) * CELLS // height
    columns = np.arange(width) * CELLS // width
    return cells[:, rows][:, :, columns]


@cache
def normal_table() -> np.ndarray:
    """Quantiles of the standard normal at 65,536 even steps, float32.

    Looking up a random uint16 here takes a quarter of the time of `standard_normal`,
    the main cost of a 224x224x3 image; the tails end at 4.3 standard deviations. A
    platform's logarithm does not affect the data: rounding removes the difference.
    """
    normal, size = NormalDist(), 1 << 16
    quantiles = [normal.inv_cdf((step + 0.5) / size) for step in range(size)]
    return np.array(quantiles, np.float32)


def _classes(
    data: DataConfig, split: str, examples: int, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    own = keyed_generator("synthetic", split, "label").integers(
        data.classes, size=examples, dtype=np.int32
    )
    step = keyed_generator("synthetic", split, "other").integers(
        1, max(2, data.classes), size=examples, dtype=np.int32
    )
    other = (own + step) % data.classes
    share = keyed_generator("synthetic", split, "share").uniform(*SHARE, size=examples)
    share = share.astype(np.float32)[:, np.newaxis, np.newaxis, np.newaxis]
    noise = keyed_generator("synthetic", split, "noise")
    table = normal_table() * np.float32(255 * data.noise)

    images = np.empty((examples, *data.image_shape), np.uint8)
    chunk = max(1, CHUNK // math.prod(data.image_shape))
    for start in range(0, examples, chunk):
        part = slice(start, start + chunk)
        blend = share[part] * cells[own[part]]
        blend += (1 - share[part]) * cells[other[part]]
        draws = noise.integers(len(table), size=images[part].shape, dtype=np.uint16)
        pixels = table[draws]
        # Adding a half makes the truncating cast below round to nearest.
        pixels += spread(255 * blend + np.float32(0.5), data.image_shape)
        images[part] = np.clip(pixels, 0, 255, out=pixels)
    return images, own


def _line(data: DataConfig, split: str, examples: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (examples, *data.image_shape)
    images = keyed_generator("line", split, "pixels").integers(
        256, size=shape, dtype=np.uint8
    )
    table = normal_table().astype(np.float64)
    noise = table[
        keyed_generator("line", split, "noise").integers(len(table), size=examples)
    ]
    # Summed as integers, which is exact: the order of summation cannot matter.
    x = images.sum(axis=(1, 2, 3), dtype=np.int64) / 255
    return images, SLOPE * x + INTERCEPT + data.noise * noise


def _count(examples: int | None) -> int:
    assert examples is not None  # data.dataset.load refuses it with a message
    return examples
