"""How an image file becomes a model's input: for `data=folder` and for predictions.

All arithmetic is of integers, so every machine gets the same bytes from the same
pixels. A PNG's pixels are exact; a JPEG's are those of Pillow's libjpeg.

Shapes: h, w of the file; H, W, C as `data.image_shape` has them.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from recipe.errors import DataError

if TYPE_CHECKING:  # Pillow takes 20 ms, and most runs read no image file
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = {1: "L", 3: "RGB"}  # Pillow's, by number of channels
READ = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # modes of 8 bits
# Of a file that is small and decodes to gigabytes; a camera's have fewer.
MOST_PIXELS = 150_000_000


def read_image(path: Path) -> "Image":
    """The image in a PNG or JPEG file, turned as its EXIF orientation says.

    Raises:
      DataError: naming the file, if it is truncated, corrupt or of another type.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, more than "
                    f"{MOST_PIXELS:,}"
                )
            image.verify()  # the checksums of a PNG, which decoding skips
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise DataError(
            f"{path} is neither a PNG nor a JPEG; convert or remove it"
        ) from None
    except Exception as error:  # Pillow's decoders raise errors of many classes
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read: {reason or type(error).__name__}; replace or "
            "remove it"
        ) from error


def prepare(
    image: "Image",
    image_shape: Sequence[int],
    resize: str = "stretch",
    invert: bool = False,
) -> UInt8[np.ndarray, "H W C"]:
    """An image as a model takes it.

    Colour becomes grey by ITU-R 601-2: (19595 R + 38470 G + 7471 B + 32768) >> 16.

    Args:
      image_shape: (H, W, C), where C is 1, grey, or 3, RGB.
      resize: `stretch` to H x W; `crop` first to the largest centred rectangle of that
        aspect ratio; or `none`, which refuses images of another size.
      invert: replace each pixel p by 255 - p, last.

    Raises:
      DataError: if it is of a size that is not resized, has transparent pixels, or
        pixels that are not of 8 bits; a clause without the file's name.
    """
    height, width, channels = image_shape
    if channels not in MODES:
        raise DataError(
            f"cannot have {channels} channels: data.image_shape ends in 1, grey, or "
            "3, RGB"
        )
    if image.mode not in READ:
        raise DataError(
            f"has pixels of mode {image.mode}; convert it to grey or RGB of 8 bits"
        )
    flat = _opaque(image).convert(MODES[channels])
    pixels = np.asarray(flat).reshape(flat.height, flat.width, channels)
    if pixels.shape[:2] != (height, width):
        if resize == "none":
            raise DataError(
                f"has {flat.width}x{flat.height} pixels and not {width}x{height}, and "
                "data.resize=none; resize it, or give data.resize=stretch or crop"
            )
        if resize == "crop":
            pixels = crop(pixels, height, width)
        pixels = average(pixels, height, width)
    return 255 - pixels if invert else pixels


def prepare_file(
    path: Path, image_shape: Sequence[int], resize: str = "stretch"
) -> UInt8[np.ndarray, "H W C"]:
    """A file's image as a model takes it, see `prepare`.

    Raises:
      DataError: naming the file.
    """
    image = read_image(path)
    try:
        return prepare(image, image_shape, resize)
    except DataError as error:
        raise DataError(f"{path} {error}") from None


def _opaque(image: "Image") -> "Image":
    """Without an alpha channel, which must be opaque everywhere."""
    if not image.has_transparency_data:
        return image
    with_alpha = image.convert("RGBA")
    lowest, _ = with_alpha.getchannel("A").getextrema()
    if lowest != 255:
        raise DataError(
            "has transparent pixels, whose colour depends on what is behind them; "
            "save it without transparency"
        )
    return with_alpha.convert("RGB")


def crop(
    pixels: UInt8[np.ndarray, "h w C"], height: int, width: int
) -> UInt8[np.ndarray, "a b C"]:
    """The largest centred rectangle whose aspect ratio is height : width.

    >>> crop(np.zeros((7, 4, 1), np.uint8), 28, 28).shape
    (4, 4, 1)
    """
    h, w = pixels.shape[:2]
    rows, columns = min(h, w * height // width), min(w, h * width // height)
    rows, columns = max(rows, 1), max(columns, 1)
    top, left = (h - rows) // 2, (w - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def average(
    pixels: UInt8[np.ndarray, "h w C"], height: int, width: int
) -> UInt8[np.ndarray, "H W C"]:
    """Resize: each pixel is the mean of the area that it covers, rounded half up.

    Enlarging by a whole factor repeats pixels. The sums are of integers below 2^53,
    which float64 holds, so that neither their order nor BLAS can change them.

    >>> average(np.uint8([[[0], [255]], [[255], [255]]]), 1, 1)
    array([[[191]]], dtype=uint8)
    """
    h, w, channels = pixels.shape
    down = _sums(pixels.reshape(h, w * channels), height)
    across = down.reshape(height, w, channels).swapaxes(0, 1)
    sums = _sums(across.reshape(w, height * channels), width)
    sums = sums.reshape(width, height, channels).swapaxes(0, 1)
    area = h * w
    return ((2 * sums.astype(np.int64) + area) // (2 * area)).astype(np.uint8)


def _sums(rows: np.ndarray, after: int) -> Float[np.ndarray, "after n"]:
    """Sums over the rows that each new row covers, weighted by how much."""
    before = len(rows)
    sums = np.empty((after, rows.shape[1]))
    for new, weights in enumerate(overlaps(before, after)):
        covered = slice(new * before // after, -(-(new + 1) * before // after))
        sums[new] = weights[covered] @ rows[covered]
    return sums


@lru_cache(maxsize=16)
def overlaps(before: int, after: int) -> Float[np.ndarray, "after before"]:
    """How much of each old pixel lies in each new one, in units of 1 / after.

    >>> overlaps(3, 2)
    array([[2., 1., 0.],
           [0., 1., 2.]])
    """
    new, old = before * np.arange(after + 1), after * np.arange(before + 1)
    ends = np.minimum(new[1:, np.newaxis], old[1:])
    starts = np.maximum(new[:-1, np.newaxis], old[:-1])
    return np.maximum(ends - starts, 0).astype(np.float64)
