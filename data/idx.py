"""Reader of IDX, the format that MNIST and Fashion-MNIST are published in.

Two zero bytes, a type code (8: uint8), the number of dimensions, each size as a
big-endian uint32, then the elements in C order. Files may be gzipped.

Source: LeCun, Cortes, Burges, The MNIST Database, "File formats".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from recipe.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UINT8 = 0x08


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in an IDX file, gzipped or not whatever its name says.

    Args:
      dimensions: how many the file must have, 3 for images and 1 for labels.

    Returns:
      Read-only uint8 array.

    Raises:
      DataError: naming the file and what is wrong with it.
    """
    content = _content(path)
    header = 4 + 4 * dimensions
    if len(content) < 4 or content[:2] != b"\0\0":
        raise _corrupt(path, f"not an IDX file, it starts with {content[:4].hex(' ')}")
    type_code, found = content[2], content[3]
    if type_code != UINT8:
        raise _corrupt(path, f"elements of type 0x{type_code:02x}, not 0x08 (uint8)")
    if found != dimensions:
        raise _corrupt(path, f"{found} dimensions, not {dimensions}")
    if len(content) < header:
        raise _corrupt(path, "truncated within its header")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected, actual = header + math.prod(shape), len(content)
    if actual != expected:
        how = "truncated" if actual < expected else "too long"
        raise _corrupt(
            path, f"{how}: shape {shape} needs {expected} bytes, there are {actual}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


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
