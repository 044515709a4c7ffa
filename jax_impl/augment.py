"""Crop, flip and cutout on the device, by the parameters of `data/augment.py`.

Shapes: B global batch (under pmap, this device's), H height, W width, C channels.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt8

from recipe.experiment import AugmentConfig


def crop_and_flip(
    augment: AugmentConfig,
    images_NHWC: UInt8[Array, "N H W C"],
    indices_B: Int[Array, " B"],
    draws: Any,
) -> UInt8[Array, "B H W C"]:
    """Crops of the padded images; beyond an image's edge its pixels are 0, black.

    Gathering, padding, cropping and flipping are one look-up by a source index for each
    pixel of the batch.

    Source: He et al., Deep Residual Learning, CVPR 2016, section 4.2.
    """
    _, height, width, _ = images_NHWC.shape
    rows_1H = jnp.arange(height, dtype=jnp.int32)[None]
    rows_BH = rows_1H + (draws.top - augment.pad_crop)[:, None]
    columns_1W = jnp.arange(width, dtype=jnp.int32)[None]
    if augment.flip:
        mirrored_1W = columns_1W[:, ::-1]
        columns_1W = jnp.where(draws.flip[:, None], mirrored_1W, columns_1W)
    columns_BW = columns_1W + (draws.left - augment.pad_crop)[:, None]
    pixels_BHWC = images_NHWC.at[
        indices_B[:, None, None],
        rows_BH.clip(0, height - 1)[:, :, None],
        columns_BW.clip(0, width - 1)[:, None, :],
    ].get(mode="promise_in_bounds")
    inside_BH = (rows_BH >= 0) & (rows_BH < height)
    inside_BW = (columns_BW >= 0) & (columns_BW < width)
    inside_BHW1 = (inside_BH[:, :, None] & inside_BW[:, None, :])[..., None]
    return jnp.where(inside_BHW1, pixels_BHWC, jnp.uint8(0))


def cut_out(
    augment: AugmentConfig, images_BHWC: Float[Array, "B H W C"], draws: Any
) -> Float[Array, "B H W C"]:
    """Set a square of each normalised image to 0, the mean; clipped at the edges.

    It reaches from `cutout // 2` before its centre over `cutout` pixels.

    Source: DeVries and Taylor, Improved Regularization with Cutout, 2017.
    """
    if not augment.cutout:
        return images_BHWC
    _, height, width, _ = images_BHWC.shape
    start_top = (draws.cut_top - augment.cutout // 2)[:, None]
    start_left = (draws.cut_left - augment.cutout // 2)[:, None]
    rows_BH = jnp.arange(height, dtype=jnp.int32)[None] - start_top
    columns_BW = jnp.arange(width, dtype=jnp.int32)[None] - start_left
    in_BH = (rows_BH >= 0) & (rows_BH < augment.cutout)
    in_BW = (columns_BW >= 0) & (columns_BW < augment.cutout)
    return jnp.where((in_BH[:, :, None] & in_BW[:, None, :])[..., None], 0, images_BHWC)
