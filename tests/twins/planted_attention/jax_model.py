import jax

from jax_impl.layers import Dense
from jax_impl.precision import dtypes
from recipe.weights import weight_shapes
from tests.twins.planted import jax_model


class Model(jax_model.Model):
    def __init__(self, shapes, norm, dtypes):
        super().__init__(shapes, norm, dtypes)
        self.query = Dense(*shapes["query.kernel"], dtypes)
        self.key = Dense(*shapes["key.kernel"], dtypes)
        self.value = Dense(*shapes["value.kernel"], dtypes)

    def __call__(self, x):
        x = self.gelu(self.norm(self.stem(x) + jax_model.SHIFT))
        x_BTC = self.body(x).reshape(len(x), -1, x.shape[-1])
        scores_BTT = self.query(x_BTC) @ self.key(x_BTC).mT / x_BTC.shape[-1] ** 0.5
        x_BTC = x_BTC + jax.nn.softmax(scores_BTT, -1) @ self.value(x_BTC)
        return self.head(x_BTC.reshape(len(x), -1))


def build_model(config):
    return Model(weight_shapes(config), config.model.norm, dtypes(config))
