"""Images of a dataset as PNG files, to be shown on a page."""

import io

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image


def png(image: UInt8[ndarray, "H W C"]) -> bytes:
    """The image as a PNG; without three channels the first one, in grey."""
    grey = image.shape[2] != 3
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if grey else image).save(content, "png")
    return content.getvalue()
