"""The images that a trained model is given: files, folders of them, or IDX files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from data.idx import GZIP_MAGIC, read_idx
from data.prepare import SUFFIXES, prepare, read_image
from recipe.errors import DataError

IDX_MAGIC = b"\0\0"
BRIGHT = 127  # pixels above it


class Inputs(NamedTuple):
    """Images as a model takes them.

    Args:
      names: of each the path, as given or found in a folder; in an IDX file with its
        place there, `FILE[0]`.
    """

    names: list[str]
    pixels: UInt8[np.ndarray, "n H W C"]


def read_inputs(
    paths: Sequence[Path],
    image_shape: Sequence[int],
    resize: str = "stretch",
    invert: bool = False,
) -> Inputs:
    """Every image of these paths, prepared as `data.prepare` says.

    Args:
      paths: PNG and JPEG files; folders, of which all PNG and JPEG files in and below
        are taken; IDX files, gzipped or not.

    Raises:
      DataError: naming the path that is missing, empty or cannot be read.
    """
    names, pixels = [], []
    for path in paths:
        for name, image in _images(path):
            try:
                pixels.append(prepare(image, image_shape, resize, invert))
            except DataError as error:
                raise DataError(f"{name} {error}") from None
            names.append(name)
    return Inputs(names, np.stack(pixels))


def bright_at_the_border(
    pixels: UInt8[np.ndarray, "n H W C"],
) -> Bool[np.ndarray, " n"]:
    """Whether most pixels of an image's four edges are bright.

    >>> dark, light = np.zeros((1, 4, 4, 1), np.uint8), np.full((1, 4, 4, 1), 255)
    >>> bright_at_the_border(np.concatenate([dark, light]).astype(np.uint8))
    array([False,  True])
    """
    inside = np.zeros(pixels.shape[1:3], bool)
    inside[1:-1, 1:-1] = True
    return (pixels[:, ~inside] > BRIGHT).mean(axis=(1, 2)) > 0.5


def _images(path: Path) -> Iterator[tuple[str, Image.Image]]:
    if path.is_dir():
        files = [f for f in sorted(path.rglob("*")) if _is_image(f.relative_to(path))]
        if not files:
            raise DataError(f"{path} holds no image called {', '.join(SUFFIXES)}")
        yield from ((str(file), read_image(file)) for file in files)
    elif _is_idx(path):
        images = read_idx(path, 3, 4)
        if not len(images) or images.shape[3:] not in ((), (1,), (3,)):
            held = " x ".join(map(str, images.shape))
            raise DataError(f"{path} holds {held} numbers, and no grey or RGB images")
        for place, pixels in enumerate(images):
            grey = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
            yield f"{path}[{place}]", Image.fromarray(grey)
    else:
        yield str(path), read_image(path)


def _is_image(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _is_idx(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) in (IDX_MAGIC, GZIP_MAGIC)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
