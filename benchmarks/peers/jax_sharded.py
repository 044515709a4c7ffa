"""The bare loop in JAX over a mesh of devices, a core for each: jit shares gradients.

python benchmarks/peers/jax_sharded.py cnn --devices 2
"""

from functools import partial

from timed import arguments, keep_to_cores, pixels, report_in_step

ASKED = arguments(__doc__)
keep_to_cores(0, ASKED.devices)

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", ASKED.devices)

import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from jax_models import build  # noqa: E402


def main() -> None:
    mesh = jax.make_mesh((ASKED.devices,), ("data",), (AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    graph, params, rest = nnx.split(build(ASKED.cell, ASKED.width), nnx.Param, ...)
    decay = optax.add_decayed_weights(5e-4)
    optimizer = optax.chain(decay, optax.sgd(1e-3, 0.9, nesterov=True))

    @partial(jax.jit, donate_argnums=0)
    def train(state, images, labels, rows):
        params, rest, slots = state
        x = (images[rows].astype("float32") / 255 - 0.5) / 0.3

        def loss_fn(params):
            model = nnx.merge(graph, params, rest, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                model(x), labels[rows]
            )
            return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), gradients = gradient(params)
        updates, slots = optimizer.update(gradients, slots, params)
        return (optax.apply_updates(params, updates), rest, slots), loss

    images, labels = jax.device_put(pixels(ASKED.cell), whole)
    state = jax.device_put((params, rest, optimizer.init(params)), whole)
    order = np.random.default_rng(0).permutation(len(images)).astype(np.int32)
    batch, losses = ASKED.batch * ASKED.devices, []

    def step(i: int) -> None:
        nonlocal state
        start = i * batch % (len(order) - batch)
        rows = jax.device_put(order[start : start + batch], split)
        state, loss = train(state, images, labels, rows)
        losses.append(loss)

    def wait() -> None:
        jax.device_get(losses)
        losses.clear()

    report_in_step(step, wait, ASKED.batch)


if __name__ == "__main__":
    main()
