"""Custom images: four IDX files, or an .npz, at `data.files`.

IDX: a folder with one file each called train and images, train and labels, t10k or test
and images, and labels; if it contains several such sets, the prefix of their paths
(`/data/emnist-letters`). Gzipped or not. So EMNIST, KMNIST and QMNIST are published.

.npz: arrays called as `data.arrays.Arrays` and MedMNIST have them, or as Keras does.

Images are uint8 (n, h, w) or (n, h, w, c); labels integers (n,) or (n, 1), from
`data.label_offset` on.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from data.arrays import Arrays, check
from data.idx import INTEGERS, read_idx
from recipe.errors import DataError
from recipe.experiment import DataConfig

SPLITS = (("train",), ("t10k", "test"))
QMNIST = 8  # numbers for each example in its files of labels
KERAS = ("x_train", "y_train", "x_test", "y_test")
DAMAGED = (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)


def load(data: DataConfig) -> Arrays:
    """The arrays in `data.files`.

    Raises:
      DataError: naming the file and array, what it contains and what it should.
    """
    assert data.files is not None  # checked by DataConfig for data=custom
    path = Path(data.files)
    read = read_npz if path.suffix == ".npz" else read_four
    found, names = read(path)
    arrays = Arrays(
        _images(found[0], names[0], data),
        _labels(found[1], names[1], data),
        _images(found[2], names[2], data),
        _labels(found[3], names[3], data),
    )
    check(arrays, data.image_shape, data.classes, names)
    return arrays


def read_four(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Four IDX files: their arrays, and names in messages.

    Raises:
      DataError: if they are not four, or naming the damaged one.
    """
    arrays, names = [], []
    for split in SPLITS:
        images, labels = _one(path, split, "images"), _one(path, split, "labels")
        arrays += [read_idx(images, 3, 4), _column(labels)]
        names += [str(images), str(labels)]
    return arrays, names


def _column(path: Path) -> np.ndarray:
    """A file's classes; in QMNIST's rows of eight numbers they come first."""
    labels = read_idx(path, 1, 2, types=INTEGERS)
    return labels[:, 0] if labels.shape[1:] == (QMNIST,) else labels


def _one(path: Path, split: tuple[str, ...], kind: str) -> Path:
    folder, start = (path, "") if path.is_dir() else (path.parent, path.name)
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise DataError(f"data.files={path} cannot be read: {error.strerror}") from None
    found = {
        file.name.removesuffix(".gz"): file
        for file in reversed(files)  # the one that is not gzipped last
        if file.name.startswith(start)
        and kind in file.name
        and any(word in file.name for word in split)
    }
    if len(found) != 1:
        raise DataError(
            f"data.files={path}: {len(found)} files are called "
            f"{' or '.join(split)} and {kind}"
            f"{' (' + ', '.join(sorted(found)) + ')' if found else ''}, one is needed; "
            "give a folder of four IDX files, the prefix of their paths, or an .npz"
        )
    return next(iter(found.values()))


def read_npz(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """The four arrays of an .npz, and their names in messages.

    Raises:
      DataError: if it is damaged, or lacks one of them.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = next((n for n in (Arrays._fields, KERAS) if {*n} <= {*file}), None)
            if names is None:
                raise DataError(
                    f"{path} contains {', '.join(file) or 'nothing'}; expected names "
                    "are "
                    f"{', '.join(Arrays._fields)}, or Keras's {', '.join(KERAS)}"
                )
            return [file[name] for name in names], [f"{path}: {n}" for n in names]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except DAMAGED as error:
        raise DataError(f"{path} is not a complete .npz of numbers: {error}") from error


def _images(array: np.ndarray, name: str, data: DataConfig) -> np.ndarray:
    """As uint8 (n, h, w, c); `check` refuses other shapes."""
    if array.dtype != np.uint8:
        raise DataError(
            f"{name} must be uint8, pixels from 0 to 255, got {array.dtype}; convert "
            "pixels from 0 to 1 by (255 * images).round().astype('uint8')"
        )
    if array.ndim == 3:
        return array[..., np.newaxis]
    last = list(np.moveaxis(array, 1, -1).shape[1:]) if array.ndim == 4 else []
    if last == data.image_shape != list(array.shape[1:]):
        raise DataError(
            f"{name} holds images of shape {list(array.shape[1:])}, channels first; "
            "put them last by images.transpose(0, 2, 3, 1)"
        )
    return array


def _labels(array: np.ndarray, name: str, data: DataConfig) -> np.ndarray:
    """As int32 (n,) from 0 on; or float64 targets without classes."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if not data.classes:
        return array.astype(np.float64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{name} must be integers of shape (n,), got {array.dtype} of shape "
            f"{array.shape}; convert one-hot rows by labels.argmax(axis=1)"
        )
    first, last = data.label_offset, data.label_offset + data.classes - 1
    lowest, highest = (
        (int(f(array)) for f in (np.min, np.max)) if array.size else (0, 0)
    )
    if array.size and not first <= lowest <= highest <= last:
        raise DataError(
            f"{name} holds labels from {lowest} to {highest}; data.classes="
            f"{data.classes} with data.label_offset={first} takes {first} to {last}"
        )
    return (array.astype(np.int64) - first).astype(np.int32)
