import torch.nn.functional as F
from torch import nn

from recipe.weights import weight_shapes
from torch_impl.layers import BatchNorm, Conv, Dense, flatten
from torch_impl.precision import dtypes

# A mean that is large against the deviation, where the variance's formula matters.
SHIFT = 300.0


class Model(nn.Module):
    def __init__(self, shapes, norm, dtypes):
        super().__init__()
        _, _, channels, width = shapes["stem.kernel"]
        self.stem = Conv(channels, width, 3, dtypes, stride=2, padding=1)
        self.norm = BatchNorm(width, norm, dtypes)
        self.body = Conv(width, width, 3, dtypes, padding=1)
        self.head = Dense(*shapes["head.kernel"], dtypes)

    def forward(self, x):
        x = F.gelu(self.norm(self.stem(x) + SHIFT))
        return self.head(flatten(self.body(x)))


def build_model(config):
    return Model(weight_shapes(config), config.model.norm, dtypes(config))
