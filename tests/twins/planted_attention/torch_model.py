import torch
import torch.nn.functional as F

from recipe.weights import weight_shapes
from tests.twins.planted import torch_model
from torch_impl.layers import Dense
from torch_impl.precision import dtypes


class Model(torch_model.Model):
    def __init__(self, shapes, norm, dtypes):
        super().__init__(shapes, norm, dtypes)
        self.query = Dense(*shapes["query.kernel"], dtypes)
        self.key = Dense(*shapes["key.kernel"], dtypes)
        self.value = Dense(*shapes["value.kernel"], dtypes)

    def forward(self, x):
        x = F.gelu(self.norm(self.stem(x) + torch_model.SHIFT))
        x_BTC = self.body(x).flatten(2).mT
        scores_BTT = self.query(x_BTC) @ self.key(x_BTC).mT / x_BTC.shape[-1] ** 0.5
        x_BTC = x_BTC + torch.softmax(scores_BTT, -1) @ self.value(x_BTC)
        return self.head(x_BTC.flatten(1))


def build_model(config):
    return Model(weight_shapes(config), config.model.norm, dtypes(config))
