from functools import partial

import jax
from flax import nnx

from jax_impl.layers import BatchNorm, Conv, Dense, flatten
from jax_impl.precision import dtypes
from recipe.weights import weight_shapes

# A mean that is large against the deviation, where the variance's formula matters.
SHIFT = 300.0


class Model(nnx.Module):
    def __init__(self, shapes, norm, dtypes):
        _, _, channels, width = shapes["stem.kernel"]
        self.stem = Conv(channels, width, 3, dtypes, stride=2, padding=1)
        self.norm = BatchNorm(width, norm, dtypes)
        self.body = Conv(width, width, 3, dtypes, padding=1)
        self.head = Dense(*shapes["head.kernel"], dtypes)
        self.gelu = partial(jax.nn.gelu, approximate=False)

    def __call__(self, x):
        x = self.gelu(self.norm(self.stem(x) + SHIFT))
        return self.head(flatten(self.body(x)))


def build_model(config):
    return Model(weight_shapes(config), config.model.norm, dtypes(config))
