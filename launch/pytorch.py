"""Train with PyTorch, one process per device.

python launch/pytorch.py experiment=digits_mlp
torchrun --standalone --nproc-per-node=2 launch/pytorch.py experiment=digits_mlp
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

from runtime.signals import Stopping

STOPPING = Stopping()


def twin():
    from torch_impl.parallel import check
    from torch_impl.train import run

    return check, run


if __name__ == "__main__":
    # Before slow imports, so that signals are handled.
    STOPPING.install()

    from launch.train import main

    main("torch", twin, STOPPING)
