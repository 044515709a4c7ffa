"""The usual Flax script: `nnx.jit`, `nnx.max_pool`, and batches from the host.

python benchmarks/peers/jax_usual.py cnn --batch 128
"""

from functools import partial

import jax
import numpy as np
import optax
from flax import nnx
from jax_models import CNN, MLP
from timed import arguments, pixels, report


@nnx.jit
def train(model, optimizer, images, labels):
    def loss_fn(model):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return losses.mean()

    loss, gradients = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, gradients)
    return loss


def main() -> None:
    asked = arguments(__doc__)
    images, labels = pixels(asked.model)
    images = (images.astype(np.float32) / 255 - 0.5) / 0.3
    pool = partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
    model = CNN(pool) if asked.model == "cnn" else MLP()
    decay = optax.add_decayed_weights(5e-4)
    chain = optax.chain(decay, optax.sgd(1e-3, 0.9, nesterov=True))
    optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)
    order, loss = np.random.default_rng(0).permutation(len(images)), None

    def step(i: int) -> None:
        nonlocal loss
        start = i * asked.batch % (len(images) - asked.batch)
        rows = order[start : start + asked.batch]
        loss = train(model, optimizer, images[rows], labels[rows])

    report(step, lambda: jax.block_until_ready(loss), asked)


if __name__ == "__main__":
    main()
