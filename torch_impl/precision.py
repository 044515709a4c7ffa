"""What a precision means: the dtype of every number, and the switches behind it."""

from typing import NamedTuple

import torch

from recipe.config import Config
from recipe.errors import ConfigError


class Dtypes(NamedTuple):
    """The cast policy, as layers take it.

    Args:
      parameter: of parameters, their gradients and optimizer state; normalisation,
        softmax, logits, the loss and other reductions.
      compute: of convolutions and matrix products, and of activations between layers.
    """

    parameter: torch.dtype
    compute: torch.dtype


def parameter_dtype(config: Config) -> torch.dtype:
    """Double precision where the run is to prove something, else single."""
    return torch.float64 if config.precision.name == "fp64" else torch.float32


def compute_dtype(config: Config) -> torch.dtype:
    """What convolutions and matrix products take and give."""
    return {"fp32": torch.float32, "fp64": torch.float64}[config.precision.name]


def dtypes(config: Config) -> Dtypes:
    return Dtypes(parameter_dtype(config), compute_dtype(config))


def configure(config: Config, device: torch.device) -> None:
    """Set the process's switches so that the arithmetic is what the precision says.

    TF32 is off everywhere: torch leaves it on for cuDNN's convolutions.

    Raises:
      ConfigError: if the device has no such arithmetic.
    """
    # Over every backend and operation; pyright does not see the module's property.
    torch.backends.fp32_precision = "ieee"  # pyright: ignore[reportAttributeAccessIssue]
    try:
        torch.ones(1, dtype=compute_dtype(config), device=device).add(1)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"precision={config.precision.name} is not there on device {device}; "
            "use precision=fp32, or platform=cpu"
        ) from error
