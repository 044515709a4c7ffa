"""Single operations, forward and backward, in ms: the limit of each framework.

    python benchmarks/single_ops.py torch
    python benchmarks/single_ops.py jax

For JAX twice: by its library, and by the twin's layer. Prints JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.allocator import keep_freed_memory  # noqa: E402

# Batch, height and width, channels in and out, kernel, padding, stride.
CONVOLUTIONS = {
    "5x5, 1 to 10 channels, 128 of 28x28": (128, 28, 1, 10, 5, 0, 1),
    "5x5, 10 to 20 channels, 128 of 12x12": (128, 12, 10, 20, 5, 0, 1),
    "3x3, 3 to 16 channels, 64 of 32x32": (64, 32, 3, 16, 3, 1, 1),
    "3x3, 16 to 16 channels, 32 of 32x32": (32, 32, 16, 16, 3, 1, 1),
    "3x3, 64 to 64 channels, 64 of 32x32": (64, 32, 64, 64, 3, 1, 1),
    "3x3, 256 to 256 channels, 64 of 8x8": (64, 8, 256, 256, 3, 1, 1),
}
GELU = "exact GELU of 2048 x 768"
NORM = "layer normalisation of 2048 x 192"
ATTENTION = "attention, 32 x 3 heads of 64 tokens and features"
PRODUCT = "matrix product, 2048 x 192 by 192 x 768"
SECONDS = 0.5  # of each measurement


def milliseconds(call: Callable[[], object]) -> float:
    for _ in range(3):
        call()
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < SECONDS or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 3)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape, np.float32) for shape in shapes]


def of_torch() -> dict[str, dict[str, float]]:
    import torch
    import torch.nn.functional as F

    def both(function, *given):
        inputs = [torch.from_numpy(array).requires_grad_() for array in given]
        cotangent = torch.from_numpy(*arrays(function(*inputs).shape))
        return milliseconds(
            lambda: torch.autograd.grad(function(*inputs), inputs, cotangent)
        )

    times = {}
    for name, (b, size, before, after, k, padding, stride) in CONVOLUTIONS.items():
        x, kernel = arrays((b, before, size, size), (after, before, k, k))
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        conv = partial(F.conv2d, stride=stride, padding=padding)
        times[name] = both(conv, x, kernel)
    times[GELU] = both(F.gelu, *arrays((2048, 768)))
    normalise = lambda x, scale, bias: F.layer_norm(x, (192,), scale, bias)  # noqa: E731
    times[NORM] = both(normalise, *arrays((2048, 192), (192,), (192,)))
    times[ATTENTION] = both(
        lambda q, k, v: (q @ k.transpose(2, 3)).softmax(-1) @ v,
        *arrays(*[(32, 3, 64, 64)] * 3),
    )
    times[PRODUCT] = both(F.linear, *arrays((2048, 192), (768, 192)))
    return {"torch": times}


def of_jax() -> dict[str, dict[str, float]]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jax_impl import layers
    from jax_impl.precision import Dtypes
    from recipe.experiment import NormConfig

    dtypes = Dtypes(np.dtype("float32"), np.dtype("float32"))

    def both(function, *given):
        inputs = [jnp.asarray(array) for array in given]
        (cotangent,) = arrays(jax.eval_shape(function, *inputs).shape)

        @jax.jit
        def step(cotangent, *inputs):
            out, pull = jax.vjp(function, *inputs)
            return out, pull(cotangent)  # both: XLA removes unused results

        cotangent = jnp.asarray(cotangent)
        return milliseconds(lambda: jax.block_until_ready(step(cotangent, *inputs)))

    def layer(module):
        graph, state = nnx.split(module)
        leaves, tree = jax.tree.flatten(state)
        call = lambda x, *leaves: nnx.merge(graph, tree.unflatten(leaves))(x)  # noqa: E731
        return call, *leaves

    library, twin = {}, {}
    for name, (b, size, before, after, k, padding, stride) in CONVOLUTIONS.items():
        (x,) = arrays((b, size, size, before))
        given: dict[str, Any] = dict(strides=stride, padding=padding, use_bias=False)
        usual = nnx.Conv(before, after, (k, k), **given, rngs=nnx.Rngs(0))
        own = layers.Conv(before, after, k, dtypes, stride=stride, padding=padding)
        for times, module in (library, usual), (twin, own):
            call, kernel = layer(module)
            times[name] = both(call, x, kernel)
    (x,) = arrays((2048, 768))
    library[GELU] = both(lambda x: nnx.gelu(x, approximate=False), x)
    twin[GELU] = both(getattr(layers, "gelu", nnx.gelu), x)
    (x,) = arrays((2048, 192))
    own = layers.LayerNorm(192, NormConfig(name="layer"), dtypes)
    for times, module in (library, nnx.LayerNorm(192, rngs=nnx.Rngs(0))), (twin, own):
        call, *affine = layer(module)
        times[NORM] = both(call, x, *affine)
    library[ATTENTION] = twin[ATTENTION] = both(
        lambda q, k, v: jax.nn.softmax(q @ k.swapaxes(2, 3)) @ v,
        *arrays(*[(32, 3, 64, 64)] * 3),
    )
    library[PRODUCT] = twin[PRODUCT] = both(jnp.dot, *arrays((2048, 192), (192, 768)))
    return {"jax": library, "jax twin": twin}


if __name__ == "__main__":
    asked = {"torch": of_torch, "jax": of_jax}
    if sys.argv[1:] not in (["torch"], ["jax"]):
        raise SystemExit("usage: python benchmarks/single_ops.py torch|jax")
    keep_freed_memory()  # as in the twins
    print(json.dumps(asked[sys.argv[1]]()))
