"""What a precision means: the dtype of every number, and the switches behind it."""

import os
from typing import NamedTuple

import torch
import torch.nn.functional as F

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
    return {
        "fp64": torch.float64,
        "fp32": torch.float32,
        "tf32": torch.float32,  # rounded to TF32 by the units that multiply
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }[config.precision.name]


def dtypes(config: Config) -> Dtypes:
    return Dtypes(parameter_dtype(config), compute_dtype(config))


def choose_kernels(config: Config) -> None:
    """With `deterministic` only kernels that add in a fixed order; before CUDA starts.

    torch refuses, by the name of an operation, what it has no such kernel for.

    Source: PyTorch's notes on reproducibility.
    """
    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # The call takes a second: it imports what torch.compile needs.
    if torch.are_deterministic_algorithms_enabled() != config.deterministic:
        torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.deterministic = config.deterministic
    torch.backends.cudnn.benchmark = False


def configure(config: Config, device: torch.device) -> None:
    """Set the process's switches so that the arithmetic is what the precision says.

    Outside of precision=tf32, TF32 is off everywhere: torch leaves it on for cuDNN's
    convolutions.

    Raises:
      ConfigError: if the device has no such arithmetic.
    """
    name = config.precision.name
    if name == "tf32" and not _has_tf32(device):
        raise ConfigError(
            f"precision=tf32 is not there on device {device}, but on NVIDIA's GPUs "
            "since Ampere; use precision=fp32"
        )
    # Over every backend and operation; pyright does not see the module's property.
    kind = "tf32" if name == "tf32" else "ieee"
    torch.backends.fp32_precision = kind  # pyright: ignore[reportAttributeAccessIssue]
    try:
        _probe(compute_dtype(config), device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"precision={name} is not there on device {device} ({reason}); "
            "use precision=fp32, or platform=cpu"
        ) from error


def _has_tf32(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _probe(dtype: torch.dtype, device: torch.device) -> None:
    """A convolution, matrix products and their gradients, which a CPU may lack.

    JAX needs none: XLA computes in fp32 what a device has no arithmetic for.
    """
    x = torch.ones(1, 1, 2, 2, dtype=dtype, device=device, requires_grad=True)
    F.linear(F.conv2d(x, x @ x).flatten(1), x[0, 0, :, :1]).sum().backward()
