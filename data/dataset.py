"""A dataset by name: acquired by rank 0, then loaded and verified by every rank."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import custom, decoded, digits, folder, subset, synthetic
from data.arrays import Arrays, check, fingerprint
from recipe.errors import ConfigError, DataError
from recipe.experiment import DataConfig

REPOSITORY = Path(__file__).resolve().parent.parent

IN_MEMORY: dict[str, Callable[[DataConfig], Arrays]] = {
    "custom": custom.load,
    "digits": digits.load,
    "line": synthetic.load_line,
    "synthetic": synthetic.load,
}
ON_DISK = ("cifar10", "cifar100", "fashion_mnist", "mnist")
MADE_TO_ORDER = ("line", "synthetic")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Read-only arrays of one dataset.

    Args:
      train_images, test_images: uint8 pixels, shape (n, height, width, channels);
        memory-mapped where they come from disk.
      train_labels, test_labels: int32 class indices, or float64 targets of a
        regression, shape (n,).
      fingerprint: SHA-256 of the content, see `data.arrays.fingerprint`.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    fingerprint: str


def load(data: DataConfig) -> Dataset:
    """The dataset that a config names, verified against it; acquires nothing.

    Raises:
      ConfigError: if sizes are missing for synthetic data, or not there in other data.
      DataError: if arrays are missing, corrupt, or not what the config says.
    """
    _check_keys(data)
    if data.name in ON_DISK:
        arrays, content = decoded.load(data.name, data.root)
    elif data.name == "folder":
        arrays, content = folder.load(data)
    else:
        arrays, content = IN_MEMORY[data.name](data), None
    names = [f"{data.name}: {field}" for field in Arrays._fields]
    check(arrays, data.image_shape, data.classes, names)
    if data.train_examples is not None and data.name not in MADE_TO_ORDER:
        arrays, content = subset.take(arrays, data), None
    for array in arrays:
        array.setflags(write=False)
    return Dataset(*arrays, fingerprint=content or fingerprint(arrays))


def acquire(data: DataConfig) -> str:
    """Make sure that `load` finds its files; called by one process of a run.

    Existing arrays are used, whatever their source, as all sources give the same ones.
    Published data is decoded and downloaded in a separate process, so that neither
    torchvision nor TensorFlow enters this one.

    Returns:
      Where the dataset is: a folder, or `memory`.

    Raises:
      DataError: with that process's message, if it fails.
    """
    if data.name == "folder":
        return str(folder.acquire(data))
    if data.name not in ON_DISK:
        return "memory"
    try:
        decoded.verify(data.name, data.root)
    except DataError:
        _run_acquire(data)
    return str(decoded.decoded_folder(data.name, data.root))


def _run_acquire(data: DataConfig) -> None:
    # Absolute: the child runs in the repository root, so that `data` there is ours.
    root = os.path.abspath(data.root)
    command = ["-m", "data.acquire", data.name, "--source", data.source, "--root", root]
    message = ""
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        # A progress bar's carriage returns would become a thousand lines in the log.
        env={**os.environ, "TQDM_DISABLE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is handled by the run, afterwards
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("error: "):  # raised below, so not printed here
                message = line.removeprefix("error: ").strip()
            else:
                print(line, end="", file=sys.stderr, flush=True)
    if child.returncode:
        raise DataError(
            message
            or f"`python {' '.join(command)}` failed with exit status "
            f"{child.returncode}; run it by hand to see why"
        )


def _check_keys(data: DataConfig) -> None:
    sizes = {"train_examples": data.train_examples, "test_examples": data.test_examples}
    if data.name in MADE_TO_ORDER:
        for key, value in sizes.items():
            if value is None:
                raise ConfigError(f"data.{key} must be given with data={data.name}")
        return
    for key, value in {**sizes, "noise": data.noise}.items():
        if value and key != "train_examples":
            raise ConfigError(
                f"data.{key}={value} has no meaning with data={data.name}, whose "
                f"test examples are fixed; use data={' or data='.join(MADE_TO_ORDER)}, "
                "or leave it out"
            )
