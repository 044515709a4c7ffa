"""The outputs of weights for their run's test set, computed by one framework.

    python -m launch.evaluate_twin torch FOLDER

FOLDER has config.yaml and weights.safetensors; outputs.npy is added. Exit status 2 with
one line for bad input. A separate process, since it imports a framework; torchrun
starts several.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from launch.cli import leave, this_process
from launch.outputs import CONFIG, OUTPUTS, WEIGHTS
from recipe.config import from_yaml
from recipe.errors import DuetError


def twin(framework: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The framework's `check` and its evaluation."""
    if framework == "torch":
        from torch_impl.evaluate import run
        from torch_impl.parallel import check

        return check, run
    from jax_impl.evaluate import run
    from jax_impl.parallel import check

    return check, run


def main(framework: str, folder: Path) -> None:
    """Compute and write the outputs; rank 0 alone writes."""
    processes = this_process()
    try:
        config = from_yaml((folder / CONFIG).read_text())
        weights = safetensors.numpy.load_file(folder / WEIGHTS)
        check, run = twin(framework)
        check(config, processes)
        outputs = run(config, processes, weights)
    except DuetError as error:
        leave(error, processes.rank)
    if processes.rank == 0:
        np.save(folder / OUTPUTS, outputs, allow_pickle=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
