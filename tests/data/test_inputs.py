"""Images that a model is given come from files, folders and IDX files."""

import gzip

import numpy as np
import pytest
from PIL import Image

from data.inputs import read_inputs
from recipe.errors import DataError

PIXELS = np.random.default_rng(0).integers(256, size=(3, 4, 5), dtype=np.uint8)


@pytest.fixture
def scans(tmp_path, as_idx):
    """Three PNGs, one of them deeper, and the same images as an IDX file."""
    (tmp_path / "scans" / "more" / ".hidden").mkdir(parents=True)
    for name, pixels in zip(("a.png", "more/b.PNG", "z.png"), PIXELS, strict=True):
        Image.fromarray(pixels).save(tmp_path / "scans" / name)
    (tmp_path / "scans" / "more" / ".hidden" / "c.png").write_bytes(b"")
    (tmp_path / "scans" / "notes.txt").touch()
    (tmp_path / "scans.gz").write_bytes(gzip.compress(as_idx(PIXELS)))
    return tmp_path


def test_a_folder_and_an_idx_file_of_the_same_images_are_the_same_inputs(scans):
    found = read_inputs([scans / "scans"], [4, 5, 1])
    np.testing.assert_array_equal(found.pixels[..., 0], PIXELS)
    assert [name.removeprefix(f"{scans}/scans/") for name in found.names] == [
        *("a.png", "more/b.PNG", "z.png"),
    ]
    idx = read_inputs([scans / "scans.gz"], [4, 5, 1], invert=True)
    np.testing.assert_array_equal(idx.pixels, 255 - found.pixels)
    assert idx.names == [f"{scans}/scans.gz[{place}]" for place in range(3)]


def test_what_holds_no_image_is_named(scans, as_idx):
    (scans / "none-idx3").write_bytes(as_idx(PIXELS[:0]))
    (scans / "five-idx4").write_bytes(as_idx(np.zeros((2, 4, 5, 5), np.uint8)))
    (scans / "labels-idx1").write_bytes(as_idx(PIXELS[0, 0]))
    for path, said in {
        "scans/more/.hidden": "c.png is neither a PNG nor",
        "none-idx3": "none-idx3 holds 0 x 4 x 5 numbers, and no grey or RGB images",
        "five-idx4": "five-idx4 holds 2 x 4 x 5 x 5 numbers, and no grey or RGB",
        "labels-idx1": "labels-idx1: 1 dimensions, not 3 or 4",
        "nowhere.png": "nowhere.png cannot be read: No such file",
        "scans/notes.txt": "notes.txt is neither a PNG nor a JPEG",
    }.items():
        with pytest.raises(DataError, match=said) as refused:
            read_inputs([scans / "scans" / "a.png", scans / path], [4, 5, 1])
        assert str(scans) in str(refused.value)


def test_another_size_is_refused_by_the_image_s_name_where_resizing_is_off(scans):
    with pytest.raises(DataError, match=r"scans.gz\[0\] has 5x4 pixels and not 8x8"):
        read_inputs([scans / "scans.gz"], [8, 8, 1], "none")
