"""The meaning of each precision: dtypes and framework flags."""

import os
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from recipe.config import Config
from recipe.errors import ConfigError

if TYPE_CHECKING:  # it imports this module
    from torch_impl.parallel import World


class Dtypes(NamedTuple):
    """The cast policy of layers.

    Args:
      parameter: of parameters, their gradients and optimizer state; normalisation,
        softmax, logits, the loss and other reductions.
      compute: of convolutions and matrix products, and of activations between layers.
    """

    parameter: torch.dtype
    compute: torch.dtype


def parameter_dtype(config: Config) -> torch.dtype:
    """fp64 for the proof mode, else fp32."""
    return torch.float64 if config.precision.name == "fp64" else torch.float32


def compute_dtype(config: Config) -> torch.dtype:
    """The dtype of inputs and outputs of convolutions and matrix products."""
    return {
        "fp64": torch.float64,
        "fp32": torch.float32,
        "tf32": torch.float32,  # rounded to TF32 by the hardware
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }[config.precision.name]


def dtypes(config: Config) -> Dtypes:
    return Dtypes(parameter_dtype(config), compute_dtype(config))


def choose_kernels(config: Config) -> None:
    """With `deterministic` allow only reproducible kernels; call before CUDA starts.

    torch raises an error for operations without one, by name.

    Source: PyTorch's notes on reproducibility.
    """
    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # The call takes a second, as it imports torch.compile.
    if torch.are_deterministic_algorithms_enabled() != config.deterministic:
        torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.deterministic = config.deterministic
    # cuDNN times its algorithms for each shape and takes the fastest, as XLA does.
    torch.backends.cudnn.benchmark = not config.deterministic


def configure(config: Config, device: torch.device) -> None:
    """Set the process's flags for the precision.

    Outside of precision=tf32, TF32 is off everywhere: torch leaves it on for cuDNN's
    convolutions.

    Raises:
      ConfigError: if the device does not support it.
    """
    name = config.precision.name
    if name == "tf32" and not _has_tf32(device):
        raise ConfigError(
            f"precision=tf32 is not available on device {device}, only on NVIDIA GPUs "
            f"since Ampere; use precision=fp32"
        )
    _round_products_to_tf32(name == "tf32")
    try:
        _probe(compute_dtype(config), device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"precision={name} is not available on device {device} ({reason}); "
            "use precision=fp32, or platform=cpu"
        ) from error


def settings(config: Config, world: "World") -> dict[str, Any]:
    """What was set of what makes steps fast, for the record; null: not on this device.

    Names are the same in both twins.
    """
    cuda = world.device.type == "cuda"
    return {
        "compiled": "torch.compile" if config.compile else None,
        "flags": None,
        # FSDP shards contiguous parameters alone.
        "memory_format": "NCHW" if world.sharded else "channels_last",
        "fused_optimizer": True,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autotuning": torch.backends.cudnn.benchmark if cuda else None,
        "tf32": torch.backends.cudnn.allow_tf32 if cuda else None,
        "cuda_graphs": config.compile == "max" if cuda else None,
        "preallocation": False if cuda else None,
        "collectives": dist.get_backend() if world.processes > 1 else None,
    }


def _round_products_to_tf32(wanted: bool) -> None:
    """Whether fp32 factors are rounded to TF32, for every backend and operation.

    Also by torch's older settings: inductor reads them (the key of its autotuning
    cache, torch 2.14), which is an error where they contradict the newer one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are deprecated
        torch.set_float32_matmul_precision("high" if wanted else "highest")
        torch.backends.cudnn.allow_tf32 = wanted
    # pyright does not see the module's property.
    kind = "tf32" if wanted else "ieee"
    torch.backends.fp32_precision = kind  # pyright: ignore[reportAttributeAccessIssue]


def _has_tf32(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _probe(dtype: torch.dtype, device: torch.device) -> None:
    """Try a convolution, matrix products and gradients, which a CPU may lack.

    Not needed in JAX: XLA computes in fp32 what a device does not support.
    """
    x = torch.ones(1, 1, 2, 2, dtype=dtype, device=device, requires_grad=True)
    F.linear(F.conv2d(x, x @ x).flatten(1), x[0, 0, :, :1]).sum().backward()
