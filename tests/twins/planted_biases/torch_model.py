from recipe.weights import weight_shapes
from tests.twins.planted import torch_model
from torch_impl.layers import Conv
from torch_impl.precision import dtypes


class Model(torch_model.Model):
    def __init__(self, shapes, norm, dtypes):
        super().__init__(shapes, norm, dtypes)
        before, after = shapes["stem.kernel"][2:]
        self.stem = Conv(before, after, 3, dtypes, stride=2, padding=1, bias=True)


def build_model(config):
    return Model(weight_shapes(config), config.model.norm, dtypes(config))
