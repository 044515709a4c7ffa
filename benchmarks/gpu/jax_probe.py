"""What JAX computes and says on this machine, as JSON. Its twin: torch_probe.py.

python -m benchmarks.gpu.jax_probe products|group|hold cpu|gpu PRECISION|SECONDS
"""

import json
import os
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.gpu.products import errors, operands
from benchmarks.page import typed
from jax_impl.precision import choose_kernels, configure, parameter_dtype
from recipe.errors import ConfigError
from runtime.processes import from_environment


def products(platform: str, precision: str) -> dict[str, Any]:
    """Errors of the products under the twin's flags; versions, and devices by name."""
    config = typed([f"precision={precision}", f"platform={platform}"])
    choose_kernels(config)
    configure(config, jax.local_devices()[0])
    dtype = parameter_dtype(config)
    of = {name: jnp.asarray(x, dtype) for name, x in operands().items()}
    convolution = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

    @jax.jit
    def computed(a, b, images, kernel, gradient):
        output, pull = jax.vjp(convolution, images, kernel)
        return a @ b, output, *pull(gradient)

    names = "matmul", "convolution", "images_gradient", "kernel_gradient"
    results = zip(names, computed(**of), strict=True)
    found = {name: np.asarray(x, np.float64) for name, x in results}
    return {"errors": errors(found), **versions()}


def versions() -> dict[str, Any]:
    devices = jax.local_devices()
    stats = [device.memory_stats() or {} for device in devices]
    return {
        "version": jax.__version__,
        "backend": devices[0].client.platform_version.partition("\n")[0],
        "devices": [device.device_kind for device in devices],
        "memory_limit_bytes": [of.get("bytes_limit") for of in stats],
    }


def group(platform: str, _: str) -> dict[str, Any]:
    """The sum over a group of one process, started by torchrun."""
    processes, begin = from_environment(os.environ), time.monotonic()
    jax.distributed.initialize(
        processes.coordinator, processes.count, processes.rank, local_device_ids=[0]
    )
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    split, whole = PartitionSpec("data"), PartitionSpec()
    add = partial(lax.psum, axis_name="data")
    add = jax.shard_map(add, mesh=mesh, in_specs=split, out_specs=whole)
    rows = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, split))
    said = {"sum": jax.jit(add)(rows).tolist(), "backend": jax.default_backend()}
    seconds = time.monotonic() - begin
    jax.distributed.shutdown()
    return {**said, "group_seconds": seconds, "ranks": processes.count}


def hold(platform: str, seconds: str) -> dict[str, Any]:
    """Seconds for which the main thread waited for its busy device, once."""
    a = jnp.zeros((2048, 2048))
    # Each product needs the one before, so XLA cannot omit any.
    repeated = jax.jit(lambda n, a: lax.fori_loop(0, n, lambda _, x: x @ a + 1, a))

    def wait(count: int) -> float:
        begin = time.monotonic()
        jax.block_until_ready(repeated(count, a))
        return time.monotonic() - begin

    wait(1)
    each = wait(10) / 10
    return {"held_seconds": wait(int(float(seconds) / each) + 1)}


if __name__ == "__main__":
    jax.config.update("jax_platforms", sys.argv[2])
    ask = {"products": products, "group": group, "hold": hold}[sys.argv[1]]
    try:
        print(json.dumps(ask(*sys.argv[2:])), flush=True)
    except ConfigError as error:
        print(f"error: {error}", flush=True)
        raise SystemExit(2) from None
