"""Crop, flip and cutout on the device, by the parameters of `data/augment.py`.

Shapes: B this rank's batch, H height, W width, C channels.
"""

from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recipe.experiment import AugmentConfig


def crop_and_flip(
    augment: AugmentConfig,
    images_NHWC: UInt8[Tensor, "N H W C"],
    indices_B: Int[Tensor, " B"],
    draws: Any,
) -> UInt8[Tensor, "B H W C"]:
    """Crops of the padded images; beyond an image's edge its pixels are 0, black.

    Gathering, padding, cropping and flipping are one look-up by a source index for each
    pixel of the batch.

    Source: He et al., Deep Residual Learning, CVPR 2016, section 4.2.
    """
    _, height, width, _ = images_NHWC.shape
    device = images_NHWC.device
    rows_1H = torch.arange(height, device=device)[None]
    rows_BH = rows_1H + (draws.top - augment.pad_crop)[:, None]
    columns_1W = torch.arange(width, device=device)[None]
    if augment.flip:
        mirrored_1W = columns_1W.flip(1)
        columns_1W = torch.where(draws.flip[:, None], mirrored_1W, columns_1W)
    columns_BW = columns_1W + (draws.left - augment.pad_crop)[:, None]
    pixels_BHWC = images_NHWC[
        indices_B[:, None, None],
        rows_BH.clamp(0, height - 1)[:, :, None],
        columns_BW.clamp(0, width - 1)[:, None, :],
    ]
    inside_BH = (rows_BH >= 0) & (rows_BH < height)
    inside_BW = (columns_BW >= 0) & (columns_BW < width)
    inside_BHW1 = (inside_BH[:, :, None] & inside_BW[:, None, :])[..., None]
    return torch.where(inside_BHW1, pixels_BHWC, 0)


def cut_out(
    augment: AugmentConfig, images_BHWC: Float[Tensor, "B H W C"], draws: Any
) -> Float[Tensor, "B H W C"]:
    """Set a square of each normalised image to 0, the mean; clipped at the edges.

    It reaches from `cutout // 2` before its centre over `cutout` pixels.

    Source: DeVries and Taylor, Improved Regularization with Cutout, 2017.
    """
    if not augment.cutout:
        return images_BHWC
    _, height, width, _ = images_BHWC.shape
    device = images_BHWC.device
    start_top = (draws.cut_top - augment.cutout // 2)[:, None]
    start_left = (draws.cut_left - augment.cutout // 2)[:, None]
    rows_BH = torch.arange(height, device=device)[None] - start_top
    columns_BW = torch.arange(width, device=device)[None] - start_left
    in_BH = (rows_BH >= 0) & (rows_BH < augment.cutout)
    in_BW = (columns_BW >= 0) & (columns_BW < augment.cutout)
    return torch.where(
        (in_BH[:, :, None] & in_BW[:, None, :])[..., None], 0, images_BHWC
    )
