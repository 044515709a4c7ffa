"""Real handwritten digits without a download: scikit-learn's, enlarged to 28x28.

1797 images of 8x8 with values 0 to 16, from Alpaydin and Kaynak, Optical Recognition of
Handwritten Digits, UCI 1998. Resizing and splitting are deterministic integer
arithmetic, so every machine gets the same bytes.
"""

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from data.arrays import Arrays
from recipe.errors import DataError
from recipe.experiment import DataConfig

REPEAT = 3  # 8x8 -> 24x24
BORDER = 2  # 24x24 -> 28x28, MNIST's size
TEST_EVERY = 5


def load(data: DataConfig) -> Arrays:
    """1438 training and 359 test examples: every fifth one is for testing."""
    table = read()
    images = enlarge(table[:, :-1].reshape(-1, 8, 8))
    labels = table[:, -1].astype(np.int32)
    test = np.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    return Arrays(images[~test], labels[~test], images[test], labels[test])


def read() -> np.ndarray:
    """Scikit-learn's file, a digit per row: 64 values and the label.

    Without importing the package, which takes a second.

    Raises:
      DataError: if scikit-learn, or the file in it, is missing or unreadable.
    """
    package = find_spec("sklearn")  # finds it without importing
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise DataError("data=digits comes with scikit-learn; pip install scikit-learn")
    path = Path(folders[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        text = gzip.decompress(path.read_bytes())
        return np.array(text.replace(b"\n", b",").split(b",")[:-1], int).reshape(-1, 65)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {error}; install scikit-learn again"
        ) from error


def enlarge(values: np.ndarray) -> np.ndarray:
    """(n, 8, 8) values in 0..16 -> uint8 (n, 28, 28, 1) pixels in 0..255.

    >>> enlarge(np.full((1, 8, 8), 16.0))[0, 1:4, 14, 0]
    array([  0, 255, 255], dtype=uint8)
    """
    pixels = ((values.astype(np.int32) * 255 + 8) // 16).astype(np.uint8)
    large = pixels.repeat(REPEAT, axis=1).repeat(REPEAT, axis=2)
    border = (BORDER, BORDER)
    return np.pad(large, ((0, 0), border, border))[..., np.newaxis]
