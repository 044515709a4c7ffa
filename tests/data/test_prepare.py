"""An image file becomes the same array everywhere, or is refused by name."""

import io
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from PIL import Image

from data import prepare as prepare_module
from data.prepare import average, prepare, prepare_file, read_image
from recipe.errors import DataError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(256, size=(7, 5), dtype=np.uint8)
COLOUR = RANDOM.integers(256, size=(7, 5, 3), dtype=np.uint8)


def area_mean(pixels, row, column, height, width):
    """A pixel of `average`, from its definition."""
    h, w = pixels.shape
    total = Fraction(0)
    for y, x in product(range(h), range(w)):
        tall = min(y + 1, Fraction(h * (row + 1), height)) - max(
            y, Fraction(h * row, height)
        )
        wide = min(x + 1, Fraction(w * (column + 1), width)) - max(
            x, Fraction(w * column, width)
        )
        total += max(tall, 0) * max(wide, 0) * int(pixels[y, x])
    return (total * height * width / (h * w) + Fraction(1, 2)) // 1


@pytest.mark.parametrize("size", [(3, 2), (1, 1), (7, 5), (9, 4), (14, 15)])
def test_each_new_pixel_is_the_exact_mean_of_its_area_rounded_half_up(size):
    resized = average(GREY[..., np.newaxis], *size)[..., 0]
    for place in np.ndindex(*size):
        assert resized[place] == area_mean(GREY, *place, *size)


def test_channels_are_resized_each_by_itself_and_whole_factors_repeat():
    resized = average(COLOUR, 21, 10)
    np.testing.assert_array_equal(resized, COLOUR.repeat(3, 0).repeat(2, 1))
    alone = average(COLOUR[..., 1:2], 4, 3)
    np.testing.assert_array_equal(average(COLOUR, 4, 3)[..., 1:2], alone)


def test_colour_becomes_grey_by_integers_and_grey_becomes_equal_channels():
    grey = prepare(Image.fromarray(COLOUR), [7, 5, 1])
    weighted = COLOUR.astype(int) @ [19595, 38470, 7471]
    np.testing.assert_array_equal(grey[..., 0], (weighted + 32768) >> 16)
    rgb = prepare(Image.fromarray(GREY), [7, 5, 3])
    np.testing.assert_array_equal(rgb, GREY[..., np.newaxis].repeat(3, 2))


def test_a_crop_is_the_centre_and_an_inversion_comes_last():
    wide = np.zeros((4, 12, 1), np.uint8)
    wide[:, 4:8] = 90
    image = Image.fromarray(wide[..., 0])
    assert (prepare(image, [4, 4, 1], "crop") == 90).all()
    assert (prepare(image, [4, 4, 1], "crop", invert=True) == 165).all()
    assert (prepare(image, [1, 1, 1]) == 30).all()


def test_another_size_is_refused_where_resizing_is_off(png):
    path = png(GREY)
    with pytest.raises(DataError, match=r"a.png has 5x7 pixels and not 28x28, and"):
        prepare_file(path, [28, 28, 1], "none")
    assert prepare_file(path, [7, 5, 1], "none").shape == (7, 5, 1)


@pytest.fixture
def png(tmp_path):
    """`png(pixels, mode="RGB", exif=...)`: the path of a new file."""

    def png(pixels, name="a.png", **saved):
        Image.fromarray(pixels).save(tmp_path / name, **saved)
        return tmp_path / name

    return png


def test_the_orientation_of_exif_is_applied(png):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns
    path = png(GREY, exif=exif)
    turned = prepare_file(path, [5, 7, 1], "none")[..., 0]
    np.testing.assert_array_equal(turned, np.rot90(GREY, -1))


def test_an_opaque_alpha_channel_is_dropped_and_a_transparent_pixel_refused(png):
    alpha = np.full((7, 5, 1), 255, np.uint8)
    path = png(np.concatenate([COLOUR, alpha], axis=2))
    np.testing.assert_array_equal(prepare_file(path, [7, 5, 3]), COLOUR)
    alpha[3, 3] = 254
    path = png(np.concatenate([COLOUR, alpha], axis=2))
    with pytest.raises(DataError, match=r"a.png has transparent pixels"):
        prepare_file(path, [7, 5, 3])


def test_a_palette_is_looked_up_and_its_transparent_colour_refused(tmp_path):
    image = Image.new("P", (5, 7))
    image.putpalette([v for colour in ((9, 9, 9), (200, 0, 0)) for v in colour])
    image.putpixel((2, 3), 1)
    image.save(tmp_path / "a.png")
    pixels = prepare_file(tmp_path / "a.png", [7, 5, 3])
    assert pixels[3, 2].tolist() == [200, 0, 0] and pixels[0, 0].tolist() == [9] * 3
    image.save(tmp_path / "a.png", transparency=1)
    with pytest.raises(DataError, match="transparent"):
        prepare_file(tmp_path / "a.png", [7, 5, 3])


def test_pixels_of_16_bits_and_of_printing_inks_are_refused(tmp_path):
    Image.fromarray(GREY.astype(np.uint16)).save(tmp_path / "a.png")
    Image.new("CMYK", (5, 7)).save(tmp_path / "a.jpg")
    for file in "a.png", "a.jpg":
        with pytest.raises(DataError, match=f"{file} has pixels of mode .* of 8 bits"):
            prepare_file(tmp_path / file, [7, 5, 1])


def test_a_file_that_would_fill_the_memory_is_refused_before_it_does(png, monkeypatch):
    monkeypatch.setattr(prepare_module, "MOST_PIXELS", 34)
    with pytest.raises(DataError, match="a.png cannot be read: it has 5 x 7 pixels"):
        read_image(png(GREY))


def test_a_png_truncated_anywhere_is_refused_by_name(png, tmp_path):
    whole = png(GREY).read_bytes()
    for length in range(len(whole) - 12):  # the end chunk holds nothing
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut.png "):
            read_image(tmp_path / "cut.png")


def test_a_flipped_bit_of_a_png_is_refused_by_its_checksum(png):
    path = png(GREY)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="a.png cannot be read: .*IDAT"):
        read_image(path)


def test_half_a_jpeg_is_refused_and_a_whole_one_read_whatever_it_is_called(tmp_path):
    held = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(held, "JPEG")
    path = tmp_path / "a.png"
    path.write_bytes(held.getvalue())
    assert not prepare_file(path, [8, 8, 1]).any()
    path.write_bytes(held.getvalue()[:-60])
    with pytest.raises(DataError, match="a.png cannot be read: .*truncated"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_what_is_neither_png_nor_jpeg_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a.png (is neither a PNG|cannot be read)"):
        read_image(tmp_path / "a.png")
