"""A bare loop in JAX with data on the device: the framework's own speed.

python benchmarks/peers/jax_bare.py resnet9 --batch 64 --width 0.25
"""

from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax_models import build
from timed import arguments, pixels, report


def program(name: str, width: float) -> tuple[Any, Any]:
    """The step, (state, images, labels, rows) -> (state, loss); and its state."""
    graph, params, rest = nnx.split(build(name, width), nnx.Param, ...)
    decay = optax.add_decayed_weights(5e-4)
    optimizer = optax.chain(decay, optax.sgd(1e-3, 0.9, nesterov=True))

    @partial(jax.jit, donate_argnums=0)
    def train(state, images, labels, rows):
        params, rest, optimizer_state = state
        x = (images[rows].astype("float32") / 255 - 0.5) / 0.3

        def loss_fn(params):
            model = nnx.merge(graph, params, rest, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                model(x), labels[rows]
            )
            return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), gradients = gradient(params)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), rest, optimizer_state), loss

    return train, (params, rest, optimizer.init(params))


def main() -> None:
    asked = arguments(__doc__)
    images, labels = jax.device_put(pixels(asked.model))
    (train, state), losses = program(asked.model, asked.width), []
    order = np.random.default_rng(0).permutation(len(images)).astype(np.int32)

    def step(i: int) -> None:
        nonlocal state
        start = i * asked.batch % (len(images) - asked.batch)
        state, loss = train(state, images, labels, order[start : start + asked.batch])
        losses.append(loss)

    def wait() -> None:
        jax.device_get(losses)
        losses.clear()

    report(step, wait, asked)


if __name__ == "__main__":
    main()
