"""What a precision means: the dtype of every number, and the switches behind it."""

from typing import NamedTuple

import jax
import numpy as np

from recipe.config import Config
from recipe.errors import ConfigError


class Dtypes(NamedTuple):
    """The cast policy, as layers take it.

    Args:
      parameter: of parameters, their gradients and optimizer state; normalisation,
        softmax, logits, the loss and other reductions.
      compute: of convolutions and matrix products, and of activations between layers.
    """

    parameter: np.dtype
    compute: np.dtype


def parameter_dtype(config: Config) -> np.dtype:
    """Double precision where the run is to prove something, else single."""
    return np.dtype("float64" if config.precision.name == "fp64" else "float32")


def compute_dtype(config: Config) -> np.dtype:
    """What convolutions and matrix products take and give."""
    return np.dtype({"fp32": "float32", "fp64": "float64"}[config.precision.name])


def dtypes(config: Config) -> Dtypes:
    return Dtypes(parameter_dtype(config), compute_dtype(config))


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
