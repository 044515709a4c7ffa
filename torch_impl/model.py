"""The architectures. They know nothing of devices, ranks or precision's switches.

Shapes: B batch, C channels, H height, W width, K outputs.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recipe.config import Config
from recipe.own_model import own_module
from recipe.weights import CNN_KERNEL, dense_widths
from torch_impl.layers import Conv, Dense, flatten, max_pool
from torch_impl.precision import Dtypes, dtypes, parameter_dtype


class MLP(nn.Module):
    """Dense layers with ReLU between them; without hidden ones, a linear model.

    Args:
      widths: from the flattened input to the outputs.
    """

    def __init__(self, widths: list[int], dtypes: Dtypes):
        super().__init__()
        self.dense = nn.ModuleList(
            Dense(before, after, dtypes) for before, after in pairwise(widths)
        )

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        *hidden, last = self.dense
        x = flatten(x_BCHW)
        for dense in hidden:
            x = F.relu(dense(x))
        return last(x)


class CNN(nn.Module):
    """Rounds of 5x5 convolution, 2x2 max-pooling and ReLU, then dense layers.

    Args:
      channels: from the image's to the last convolution's.
      widths: of the dense layers, from the flattened features to the outputs.

    Source: LeCun et al. 1998 (LeNet-5), with ReLU and max-pooling.
    """

    def __init__(self, channels: list[int], widths: list[int], dtypes: Dtypes):
        super().__init__()
        self.conv = nn.ModuleList(
            Conv(before, after, CNN_KERNEL, dtypes, bias=True)
            for before, after in pairwise(channels)
        )
        self.dense = nn.ModuleList(
            Dense(before, after, dtypes) for before, after in pairwise(widths)
        )

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        x = x_BCHW
        for conv in self.conv:
            x = F.relu(max_pool(conv(x)))
        *hidden, last = self.dense
        x = flatten(x)
        for dense in hidden:
            x = F.relu(dense(x))
        return last(x)


def build_model(config: Config) -> nn.Module:
    """The architecture without numbers: parameters are on the meta device."""
    with torch.device("meta"):
        if config.model.folder is not None:
            own = own_module(config.model.folder, "torch_model.py")
            return own.build_model(config).to(parameter_dtype(config))
        if config.model.name == "cnn":
            channels = [config.data.image_shape[2], *config.model.channels]
            return CNN(channels, dense_widths(config), dtypes(config))
        return MLP(dense_widths(config), dtypes(config))
