"""What a precision means: the dtype of every number, and the switches behind it."""

import torch

from recipe.config import Config
from recipe.errors import ConfigError


def compute_dtype(config: Config) -> torch.dtype:
    """Parameters, activations, gradients and optimizer state are all of this type."""
    return {"fp32": torch.float32, "fp64": torch.float64}[config.precision.name]


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
