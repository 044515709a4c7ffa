"""MNIST and Fashion-MNIST as they are published: four IDX files each.

Two zero bytes, a type code (8: uint8), the number of dimensions, each size as a
big-endian uint32, then the elements in C order. Files may be gzipped.

Source: LeCun, Cortes, Burges, The MNIST Database, "File formats".
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from data.arrays import Arrays
from recipe.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UINT8 = 0x08
# Type codes of integers, and NumPy's names.
INTEGERS = {UINT8: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}

# In the order of `Arrays`.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# SHA-256 of the four files, unzipped. Those of the gzipped ones, which TFDS publishes,
# depend on who packed them: Debian's have no time in their headers.
PUBLISHED = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
PUBLISHED_EXAMPLES = (60_000, 60_000, 10_000, 10_000)


def read_mnist(paths: Sequence[Path]) -> Arrays:
    """The arrays in four IDX files, which are in the order of `FILES`.

    Raises:
      DataError: naming the file and what is wrong with it.
    """
    train_images, train_labels, test_images, test_labels = (
        read_idx(path, dimensions)
        for path, dimensions in zip(paths, (3, 1, 3, 1), strict=True)
    )
    return Arrays(
        train_images[..., np.newaxis],
        train_labels.astype(np.int32),
        test_images[..., np.newaxis],
        test_labels.astype(np.int32),
    )


def check_published(name: str, arrays: Arrays, names: Sequence[str]) -> None:
    """Refuse a damaged or different dataset under a published name.

    Two datasets in files of the same names are easily mixed up, and neither unzipped
    files nor what TFDS prepared from them carry a checksum.

    Args:
      names: of the four arrays in messages, such as the files that they came from.

    Raises:
      DataError: naming the array.
    """
    for field, place in enumerate(names):
        array = arrays[field]
        found = hashlib.sha256(as_idx(array)).hexdigest()
        published = PUBLISHED[name][field]
        for other, known in PUBLISHED.items():
            if found == known[field] != published:
                raise DataError(f"{place} is of {other}, not {name}; move it elsewhere")
        if found != published:
            held, known = len(array), PUBLISHED_EXAMPLES[field]
            counts = "" if held == known else f", {held:,} examples and not {known:,}"
            raise DataError(
                f"{place} is not that of {name} as published{counts}: as an IDX file "
                f"its SHA-256 is {found}, not {published}; fetch it again, or train on "
                "these images on purpose by data=custom data.files=FOLDER"
            )


def as_idx(array: np.ndarray) -> bytes:
    """The IDX file of an array of uint8 pixels (n, h, w, 1), or of labels (n,).

    >>> as_idx(np.array([3, 4], np.int32)).hex(" ", -4)
    '00000801 00000002 0304'
    """
    shape = array.shape[:3]
    header = struct.pack(f">4B{len(shape)}I", 0, 0, UINT8, len(shape), *shape)
    return header + array.astype(np.uint8).tobytes()


def read_idx(
    path: Path,
    *allowed: int,
    types: Mapping[int, str] = MappingProxyType({UINT8: "u1"}),
) -> np.ndarray:
    """The array in an IDX file, gzipped or not regardless of its name.

    Args:
      allowed: how many dimensions the file may have, 3 for images and 1 for labels.
      types: code of each element type that it may have, and NumPy's name of it.

    Returns:
      Read-only array of the file's type.

    Raises:
      DataError: naming the file and what is wrong with it.
    """
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise _corrupt(path, f"not an IDX file, it starts with {content[:4].hex(' ')}")
    type_code, dimensions = content[2], content[3]
    if type_code not in types:
        known = " or ".join(
            f"0x{code:02x} ({np.dtype(n)})" for code, n in types.items()
        )
        raise _corrupt(path, f"elements of type 0x{type_code:02x}, not {known}")
    if dimensions not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise _corrupt(path, f"{dimensions} dimensions, not {wanted}")
    dtype, header = np.dtype(types[type_code]), 4 + 4 * dimensions
    if len(content) < header:
        raise _corrupt(path, "truncated within its header")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + math.prod(shape) * dtype.itemsize
    actual = len(content)
    if actual != expected:
        how = "truncated" if actual < expected else "too long"
        raise _corrupt(
            path, f"{how}: shape {shape} needs {expected} bytes, there are {actual}"
        )
    return np.frombuffer(content, dtype, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _corrupt(path, f"corrupt gzip: {error}") from error


def _corrupt(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: {reason}; fetch this file again")
