"""Train with PyTorch, one process per device.

python launch/pytorch.py experiment=digits_mlp
torchrun --standalone --nproc-per-node=2 launch/pytorch.py experiment=digits_mlp
"""

import sys
from pathlib import Path

# Python puts this file's folder first, where `jax.py` would hide the package JAX.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

# Before anything that takes time to import: a signal is to find its handlers.
from record.stopping import Stopping  # noqa: E402

STOPPING = Stopping()
if __name__ == "__main__":
    STOPPING.install()

from launch.train import main  # noqa: E402


def twin():
    from torch_impl.parallel import check
    from torch_impl.train import run

    return check, run


if __name__ == "__main__":
    main("torch", twin, STOPPING)
