"""Reader of CIFAR-10 and CIFAR-100 as they are published: pickled, or binary.

An archive is read only after its checksum was verified, since a pickle can execute any
code; and even then only arrays, numbers and bytes are unpickled.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; the
layout is described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.arrays import Arrays
from data.decoded import sha256_of
from recipe.errors import DataError

PIXELS = 3 * 32 * 32  # a plane for each of red, green, blue
Split = tuple[np.ndarray, np.ndarray]  # rows of PIXELS, labels


class Archive(NamedTuple):
    """A published file: its checksum, and the members with its examples."""

    sha256: str
    train: list[str]
    test: list[str]
    examples: Callable[[bytes], Split]  # of one member


def read_cifar(path: Path) -> Arrays:
    """The examples of an archive, in its order; fine labels where there are coarse.

    Args:
      path: its name is a key of `ARCHIVES`.

    Raises:
      DataError: naming the file and what is wrong with it.
    """
    archive = ARCHIVES[path.name]
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if found != archive.sha256:
        raise DataError(
            f"{path}: truncated, corrupt or not the published archive: its SHA-256 is "
            f"{found}, not {archive.sha256}; fetch this file again"
        )
    try:
        members = _members(path, {*archive.train, *archive.test})
        return Arrays(
            *_joined([archive.examples(members[name]) for name in archive.train]),
            *_joined([archive.examples(members[name]) for name in archive.test]),
        )
    except (
        *(tarfile.TarError, EOFError, zlib.error, pickle.UnpicklingError),
        *(OSError, KeyError, ValueError),
    ) as error:
        raise DataError(f"{path}: not laid out as published: {error}") from error


def _members(path: Path, names: set[str]) -> dict[str, bytes]:
    # As a stream: seeking in gzip decompresses from the beginning again.
    with tarfile.open(path, "r|gz") as tar:
        return {
            member.name: content.read()
            for member in tar
            if member.name in names and (content := tar.extractfile(member))
        }


def _joined(parts: list[Split]) -> Split:
    rows, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int32)


def _binary(label_bytes: int) -> Callable[[bytes], Split]:
    """Rows of label bytes, the last of which is the finest, and pixels."""

    def examples(content: bytes) -> Split:
        rows = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + PIXELS)
        return rows[:, label_bytes:], rows[:, label_bytes - 1]

    return examples


def _pickled(labels: bytes) -> Callable[[bytes], Split]:
    """A dictionary, as Python 2 pickled it."""

    def examples(content: bytes) -> Split:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        return batch[b"data"].reshape(-1, PIXELS), np.asarray(batch[labels])

    return examples


class _ArraysOnly(pickle.Unpickler):
    """Refuses every callable but those of a pickled NumPy array."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "_reconstruct": np.empty(0).__reduce__()[0],
            "ndarray": np.ndarray,
            "dtype": np.dtype,
        }
        if module.partition(".")[0] != "numpy" or name not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed[name]


CIFAR10_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]

# SHA-256 as published by Keras (python) and by TFDS (binary); torchvision has MD5 only.
ARCHIVES = {
    "cifar-10-python.tar.gz": Archive(
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        [f"cifar-10-batches-py/{batch}" for batch in CIFAR10_BATCHES],
        ["cifar-10-batches-py/test_batch"],
        _pickled(b"labels"),
    ),
    "cifar-10-binary.tar.gz": Archive(
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        [f"cifar-10-batches-bin/{batch}.bin" for batch in CIFAR10_BATCHES],
        ["cifar-10-batches-bin/test_batch.bin"],
        _binary(label_bytes=1),
    ),
    "cifar-100-python.tar.gz": Archive(
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ["cifar-100-python/train"],
        ["cifar-100-python/test"],
        _pickled(b"fine_labels"),
    ),
    "cifar-100-binary.tar.gz": Archive(
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ["cifar-100-binary/train.bin"],
        ["cifar-100-binary/test.bin"],
        _binary(label_bytes=2),
    ),
}
