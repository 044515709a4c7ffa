"""IDX files: read as written, and each kind of damage named with its file."""

import gzip

import numpy as np
import pytest

from data.idx import read_idx
from recipe.errors import DataError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_a_file_reads_as_written_gzipped_or_not_whatever_its_name(
    tmp_path, as_idx, pack, name
):
    (tmp_path / name).write_bytes(pack(as_idx(IMAGES)))
    np.testing.assert_array_equal(read_idx(tmp_path / name, 3), IMAGES)


def replaced(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + bytes([value]) + content[at + 1 :]


def flipped_gzip(content: bytes) -> bytes:
    packed = gzip.compress(content)
    return replaced(packed, len(packed) // 2, packed[len(packed) // 2] ^ 0xFF)


DAMAGE = {
    "empty": (lambda c: b"", "not an IDX file"),
    "magic": (lambda c: replaced(c, 0, 7), "not an IDX file"),
    "html": (lambda c: b"<html>404</html>", "not an IDX file"),
    "float": (lambda c: replaced(c, 2, 0x0D), "type 0x0d, not 0x08"),
    "labels for images": (lambda c: replaced(c, 3, 1), "1 dimensions, not 3"),
    "half a header": (lambda c: c[:9], "truncated within its header"),
    "truncated": (lambda c: c[:-1], "truncated: shape (2, 3, 4) needs 40 bytes"),
    "absurd size": (lambda c: replaced(c, 4, 255), "truncated: shape (4278190082"),
    "too long": (lambda c: c + b"\0", "too long"),
    "flipped gzip": (flipped_gzip, "corrupt gzip"),
    "truncated gzip": (lambda c: gzip.compress(c)[:-9], "corrupt gzip"),
    "wrong checksum": (lambda c: gzip.compress(c)[:-8] + bytes(8), "corrupt gzip"),
    "gzip, then truncated": (lambda c: gzip.compress(c[:-1]), "truncated: shape"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_with_its_file(tmp_path, as_idx, kind):
    damage, reason = DAMAGE[kind]
    path = tmp_path / "images"
    path.write_bytes(damage(as_idx(IMAGES)))
    with pytest.raises(DataError) as error:
        read_idx(path, 3)
    assert str(path) in str(error.value)
    assert reason in str(error.value)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}.*cannot be read"):
        read_idx(tmp_path, 3)
