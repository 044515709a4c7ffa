"""The outputs of weights for a test set, from processes of one framework.

`launch/evaluate_twin.py` is what they run; the files of its folder are named here.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy

from launch.children import end, start
from launch.trainings import last_errors, launcher
from recipe.config import Config, to_yaml
from recipe.errors import DuetError
from recipe.execution import ParallelConfig, TrackingConfig
from recipe.training import LossScaleConfig, PrecisionConfig
from recipe.weights import Weights, weight_dtype

CONFIG, WEIGHTS, OUTPUTS = "config.yaml", "weights.safetensors", "outputs.npy"
REFUSED = "error: "


def config_of_evaluation(
    config: Config,
    *,
    devices: int = 1,
    platform: str = "auto",
    precision: str | None = None,
    root: str | None = None,
    files: str | None = None,
) -> Config:
    """The run's config, to evaluate its weights with.

    Weights are whole on every device, and none are loaded or drawn: strategy, head and
    micro-batches are of the training alone. A batch divides over the devices.

    Args:
      precision: to compute in; the run's where None.
      root, files: where its dataset is, if not where the run had it.
    """
    name = precision or config.precision.name
    scale = LossScaleConfig() if name == "fp16" else None
    batch = -(-config.train.global_batch_size // devices) * devices
    train = replace(config.train, global_batch_size=batch, grad_accum_steps=1)
    root = str(Path(root or config.data.root).absolute())
    return replace(
        config,
        data=replace(config.data, root=root, files=files or config.data.files),
        model=replace(config.model, weights=None, head=None),
        precision=PrecisionConfig(name=name, loss_scale=scale),
        parallel=ParallelConfig(name="dp"),
        tracking=TrackingConfig(name="none"),
        train=replace(train, trace=None),
        devices=devices,
        platform=platform,
        compile=False,
    )


def outputs_of(framework: str, config: Config, weights: Weights) -> np.ndarray:
    """The outputs in the test set's order, shape (examples, classes).

    PyTorch takes a process for each device, JAX one for all.

    Args:
      framework: "torch" or "jax".
      weights: of any dtype; the config's precision counts.

    Raises:
      DuetError: if it failed, with what it printed.
    """
    dtype = weight_dtype(config)
    cast = {name: array.astype(dtype) for name, array in weights.items()}
    with tempfile.TemporaryDirectory() as place:
        folder, log = Path(place), Path(place, "log")
        (folder / CONFIG).write_text(to_yaml(config))
        safetensors.numpy.save_file(cast, folder / WEIGHTS)
        with log.open("w") as output:
            process = start(_command(framework, config.devices or 1, folder), output)
            try:
                status = process.wait()
            finally:
                end(process)
        if status:
            raise _failure(framework, log)
        return np.load(folder / OUTPUTS, allow_pickle=False)


def _command(framework: str, devices: int, folder: Path) -> list[str]:
    processes = devices if framework == "torch" else 1
    return [*launcher(processes), "-m", "launch.evaluate_twin", framework, str(folder)]


def _failure(framework: str, log: Path) -> DuetError:
    """What was refused, in one line; else the end of what was printed."""
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith(REFUSED):
            return DuetError(line.removeprefix(REFUSED))
    failure = DuetError(f"{framework} failed:\n  {last_errors(log)}")
    failure.exit_status = 1
    return failure
