"""Train with JAX, in one process with several devices or in several processes.

python launch/jax.py experiment=digits_mlp devices=2
torchrun --standalone --nproc-per-node=2 launch/jax.py experiment=digits_mlp
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

from runtime.signals import Stopping

STOPPING = Stopping()


def twin():
    from jax_impl.parallel import check
    from jax_impl.train import run

    return check, run


if __name__ == "__main__":
    # Before slow imports, so that signals are handled.
    STOPPING.install()

    from launch.train import main

    main("jax", twin, STOPPING)
