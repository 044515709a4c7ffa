"""MNIST and Fashion-MNIST, memory-mapped from where `data.acquire` left them."""

import numpy as np

from data.arrays import Arrays
from data.decoded import FILES, decoded_folder, verify
from recipe.config import DataConfig


def load(data: DataConfig) -> Arrays:
    """60,000 training and 10,000 test images of 28x28x1, where they are the published.

    Raises:
      DataError: if a file is missing or not the bytes that were written.
    """
    verify(data.name, data.root)
    folder = decoded_folder(data.name, data.root)
    return Arrays(*(np.load(folder / file, mmap_mode="r") for file in FILES))
