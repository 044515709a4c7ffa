"""The bare loop in JAX over a mesh of devices, a core for each: jit shares gradients.

python benchmarks/peers/jax_sharded.py cnn --devices 2
"""

from timed import arguments, keep_to_cores, pixels, report_in_step

ASKED = arguments(__doc__)
keep_to_cores(0, ASKED.devices)

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", ASKED.devices)

import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from jax_bare import program  # noqa: E402


def main() -> None:
    mesh = jax.make_mesh((ASKED.devices,), ("data",), (AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    images, labels = jax.device_put(pixels(ASKED.cell), whole)
    train, state = program(ASKED.cell, ASKED.width)
    state = jax.device_put(state, whole)
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
