import jax
from flax import nnx

from jax_impl.layers import Conv, Dense
from jax_impl.precision import dtypes


class Block(nnx.Module):
    def __init__(self, width, after, dtypes, rngs):
        self.dense = Dense(width, width, dtypes)
        self.shares = nnx.Dropout(0.1, rngs=rngs)
        self.tokens = nnx.Dropout(0.3, rngs=rngs)
        self.zz = after

    def __call__(self, x):
        heads = x.reshape(*x.shape[:2], 2, -1).swapaxes(1, 2)
        shares = self.shares(jax.nn.softmax(heads @ heads.swapaxes(2, 3)))
        x = x + self.tokens((shares @ heads).swapaxes(1, 2).reshape(x.shape))
        return self.zz(x + self.tokens(nnx.relu(self.dense(x))))


@nnx.remat
def again(block, x):
    """Computed a second time in the backward pass, of which no mask is another's."""
    return block(x)


class Model(nnx.Module):
    def __init__(self, config):
        rngs = nnx.Rngs(0)
        types, channels = dtypes(config), config.data.image_shape[2]
        self.stem = Conv(channels, 8, 3, types, stride=2, padding=1, bias=True)
        self.pixels = nnx.Dropout(0.2, rngs=rngs)
        self.after = nnx.Dropout(0.5, rngs=rngs)
        self.none = nnx.Dropout(0.0)
        self.block = nnx.List([Block(8, self.after, types, rngs) for _ in range(2)])
        dense = Dense(8, config.data.classes, types)
        self.head = nnx.List([nnx.Dropout(0.4, rngs=rngs), dense])

    def __call__(self, x):
        x = self.none(self.pixels(nnx.relu(self.stem(x))))
        x = x.reshape(len(x), -1, x.shape[-1])
        for block in self.block:
            x = again(block, x)
        drop, dense = self.head
        return dense(drop(x.mean(1)))


build_model = Model
