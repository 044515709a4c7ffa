"""The bare loop in JAX over a mesh of devices, a core for each: jit shares gradients.

python benchmarks/peers/jax_sharded.py cnn --devices 2
torchrun --nproc-per-node=2 benchmarks/peers/jax_sharded.py cnn
"""

import os

from timed import arguments, keep_to_cores, pixels, report_in_step

ASKED = arguments(__doc__)
RANK, RANKS = (
    int(os.environ.get(name, i)) for i, name in enumerate(("RANK", "WORLD_SIZE"))
)
keep_to_cores(RANK, ASKED.devices)

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", ASKED.devices)
if RANKS > 1:
    place = f"127.0.0.1:{int(os.environ['MASTER_PORT']) + 1}"
    jax.distributed.initialize(place, RANKS, RANK)

import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from jax_bare import program  # noqa: E402


def main() -> None:
    devices = ASKED.devices * RANKS
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,))

    def put(tree, *axes: str):
        """Place this process's part of arrays that are replicated or split."""
        sharding = NamedSharding(mesh, P(*axes))
        place = jax.make_array_from_process_local_data
        return jax.tree.map(lambda leaf: place(sharding, np.asarray(leaf)), tree)

    images, labels = put(pixels(ASKED.model))
    train, state = program(ASKED.model, ASKED.width)
    state = put(state)
    order = np.random.default_rng(0).permutation(len(images)).astype(np.int32)
    order, batch, losses = order[RANK::RANKS], ASKED.batch * ASKED.devices, []

    def step(i: int) -> None:
        nonlocal state
        start = i * batch % (len(order) - batch)
        rows = put(order[start : start + batch], "data")
        state, loss = train(state, images, labels, rows)
        losses.append(loss)

    def wait() -> None:
        jax.device_get(losses)
        losses.clear()

    report_in_step(step, wait, ASKED.batch, tells=RANK == 0)


if __name__ == "__main__":
    main()
