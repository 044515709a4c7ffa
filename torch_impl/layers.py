"""Layers whose convention has to be written out.

Shapes: B batch, C channels, H height, W width, F features.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def max_pool(x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """The maximum of 2x2 pixels, stride 2; the first of equals has the gradient."""
    return F.max_pool2d(x_BCHW, kernel_size=2)


def flatten(x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
    """Features in the order of height, width, channel."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(start_dim=1)
