"""The architectures. They know nothing of devices, ranks or precision's switches.

Shapes: B batch, C channels, H height, W width, K outputs.
"""

from itertools import pairwise

from flax import nnx
from jax import Array
from jaxtyping import Float

from jax_impl.layers import Conv, Dense, flatten, max_pool
from jax_impl.precision import Dtypes, dtypes
from recipe.config import Config
from recipe.own_model import own_module
from recipe.weights import CNN_KERNEL, dense_widths


class MLP(nnx.Module):
    """Dense layers with ReLU between them; without hidden ones, a linear model.

    Args:
      widths: from the flattened input to the outputs.
    """

    def __init__(self, widths: list[int], dtypes: Dtypes):
        self.dense = nnx.List(
            Dense(before, after, dtypes) for before, after in pairwise(widths)
        )

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        *hidden, last = self.dense
        x = flatten(x_BHWC)
        for dense in hidden:
            x = nnx.relu(dense(x))
        return last(x)


class CNN(nnx.Module):
    """Rounds of 5x5 convolution, 2x2 max-pooling and ReLU, then dense layers.

    Args:
      channels: from the image's to the last convolution's.
      widths: of the dense layers, from the flattened features to the outputs.

    Source: LeCun et al. 1998 (LeNet-5), with ReLU and max-pooling.
    """

    def __init__(self, channels: list[int], widths: list[int], dtypes: Dtypes):
        self.conv = nnx.List(
            Conv(before, after, CNN_KERNEL, dtypes, bias=True)
            for before, after in pairwise(channels)
        )
        self.dense = nnx.List(
            Dense(before, after, dtypes) for before, after in pairwise(widths)
        )

    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        x = x_BHWC
        for conv in self.conv:
            x = nnx.relu(max_pool(conv(x)))
        *hidden, last = self.dense
        x = flatten(x)
        for dense in hidden:
            x = nnx.relu(dense(x))
        return last(x)


def build_model(config: Config) -> nnx.Module:
    """The architecture without numbers: parameters are shapes and types."""

    def build() -> nnx.Module:
        if config.model.folder is not None:
            own = own_module(config.model.folder, "jax_model.py")
            return own.build_model(config)
        if config.model.name == "cnn":
            channels = [config.data.image_shape[2], *config.model.channels]
            return CNN(channels, dense_widths(config), dtypes(config))
        return MLP(dense_widths(config), dtypes(config))

    return nnx.eval_shape(build)
