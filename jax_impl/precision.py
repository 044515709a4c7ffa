"""What a precision means: the dtype of every number, and the switches behind it."""

import jax
import numpy as np

from recipe.config import Config
from recipe.errors import ConfigError


def compute_dtype(config: Config) -> np.dtype:
    """Parameters, activations, gradients and optimizer state are all of this type."""
    return np.dtype({"fp32": "float32", "fp64": "float64"}[config.precision.name])


def configure(
    config: Config,
    device: jax.Device,  # pyright: ignore[reportInvalidTypeForm]  no stub for it
) -> None:
    """Set the process's switches so that the arithmetic is what the precision says.

    TF32 is off everywhere: JAX leaves it on for matmuls and convolutions on a GPU.

    Raises:
      ConfigError: if the device has no such arithmetic.
    """
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_enable_x64", config.precision.name == "fp64")
    if config.precision.name == "fp64" and device.platform not in ("cpu", "gpu"):
        raise ConfigError(
            f"precision={config.precision.name} is not there on device {device}; "
            "use precision=fp32, or platform=cpu"
        )
