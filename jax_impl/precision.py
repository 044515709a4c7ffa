"""The meaning of each precision: dtypes and framework flags."""

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recipe.config import Config
from recipe.errors import ConfigError
from runtime.devices import jax_finds_gpus

if TYPE_CHECKING:  # it imports this module
    from jax_impl.parallel import World


class Dtypes(NamedTuple):
    """The cast policy of layers.

    Args:
      parameter: of parameters, their gradients and optimizer state; normalisation,
        softmax, logits, the loss and other reductions.
      compute: of convolutions and matrix products, and of activations between layers.
    """

    parameter: np.dtype
    compute: np.dtype


def parameter_dtype(config: Config) -> np.dtype:
    """fp64 for the proof mode, else fp32."""
    return np.dtype("float64" if config.precision.name == "fp64" else "float32")


def compute_dtype(config: Config) -> np.dtype:
    """The dtype of inputs and outputs of convolutions and matrix products."""
    dtypes = {
        "fp64": jnp.float64,
        "fp32": jnp.float32,
        "tf32": jnp.float32,  # rounded to TF32 by the hardware
        "bf16": jnp.bfloat16,
        "fp16": jnp.float16,
    }
    return np.dtype(dtypes[config.precision.name])


def dtypes(config: Config) -> Dtypes:
    return Dtypes(parameter_dtype(config), compute_dtype(config))


# Off unless set in jaxlib 0.10.2, and set by JAX's GPU performance tips and in NVIDIA's
# images of JAX: collectives are started early and awaited late, so that products run
# meanwhile. On already are autotuning of kernels (level 4), Triton's matrix products,
# command buffers (CUDA graphs of 5 operations or more), and collectives combined up to
# 30 MiB. Three quarters of the memory are allocated at the start, as users of JAX
# expect, unless XLA_PYTHON_CLIENT_PREALLOCATE=false.
FAST_ON_GPUS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)
DETERMINISTIC = (
    "--xla_gpu_deterministic_ops=true",
    "--xla_gpu_exclude_nondeterministic_ops=true",
)


def choose_kernels(config: Config) -> None:
    """Set XLA's flags, in the environment; call before JAX starts a backend.

    Where a GPU may be used, those of `FAST_ON_GPUS` that the environment does not set.
    With `deterministic` allow only reproducible kernels: XLA raises an error for
    operations without one, by name.

    Source: jaxlib's debug options, `xla.proto`.
    """
    given = os.environ.get("XLA_FLAGS", "").strip()
    # Without a dash it is the name of a file of flags, to which none can be added.
    gpu = config.platform != "cpu" and jax_finds_gpus(os.environ)
    fast = gpu and given[:1] in ("", "-")
    chosen = [name.partition("=")[0] for name in given.split()]
    flags = [f for f in FAST_ON_GPUS if fast and f.partition("=")[0] not in chosen]
    if config.deterministic:
        flags += DETERMINISTIC
    if flags:
        os.environ["XLA_FLAGS"] = " ".join([given, *flags]).strip()


def configure(
    config: Config,
    device: jax.Device,  # pyright: ignore[reportInvalidTypeForm]  no stub for it
) -> None:
    """Set the process's flags for the precision.

    Outside of precision=tf32, TF32 is off everywhere: JAX leaves it on for matmuls and
    convolutions on a GPU.

    Raises:
      ConfigError: if the device does not support it.
    """
    name = config.precision.name
    if name == "tf32" and not _has_tf32(device):
        raise ConfigError(
            f"precision=tf32 is not available on device {device}, only on NVIDIA GPUs "
            f"since Ampere; use precision=fp32"
        )
    kind = "tensorfloat32" if name == "tf32" else "highest"
    jax.config.update("jax_default_matmul_precision", kind)
    jax.config.update("jax_enable_x64", name == "fp64")
    if name == "fp64" and device.platform not in ("cpu", "gpu"):
        raise ConfigError(
            f"precision={name} is not available on device {device}; "
            "use precision=fp32, or platform=cpu"
        )


def settings(config: Config, world: "World") -> dict[str, Any]:
    """What was set of what makes steps fast, for the record; null: not on this device.

    Names are the same in both twins.
    """
    gpu = world.mesh.local_devices[0].platform == "gpu"
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    preallocates = chosen.lower() not in ("0", "false")
    return {
        "compiled": "jax.pmap" if world.mapped else "jax.jit",
        "flags": flags or None,
        "memory_format": "NHWC",
        "fused_optimizer": True,
        "deterministic": config.deterministic,
        "autotuning": "--xla_gpu_autotune_level=0" not in flags if gpu else None,
        "tf32": config.precision.name == "tf32" if gpu else None,
        "cuda_graphs": not re.search(r"command_buffer=(?!\S)", flags) if gpu else None,
        "preallocation": preallocates if gpu else None,
        "collectives": ("nccl" if gpu else "gloo") if world.processes > 1 else None,
    }


def _has_tf32(
    device: jax.Device,  # pyright: ignore[reportInvalidTypeForm]  no stub for it
) -> bool:
    capability = getattr(device, "compute_capability", "")  # "8.0"; AMD's are "gfx90a"
    major = capability.partition(".")[0]
    return device.platform == "gpu" and major.isdigit() and int(major) >= 8
