"""How a uint8 pixel becomes a number: (pixel - mean) * scale, in both twins."""

import numpy as np
from jaxtyping import Float

from recipe.config import Config


def pixel_affine(
    config: Config,
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Per-channel (mean, scale) of pixels: (p - mean) * scale = (p / 255 - m) / s.

    The scale multiplies: XLA turns a division by a constant into a multiplication, one
    unit in the last place away from torch's division. And it comes after the
    subtraction, which no compiler can fuse into one rounding.
    """
    dtype = np.float64 if config.precision.name == "fp64" else np.float32
    mean, std = np.array(config.data.mean), np.array(config.data.std)
    return (255 * mean).astype(dtype), (1 / (255 * std)).astype(dtype)
