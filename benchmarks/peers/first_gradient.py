"""Seconds to the first gradient of a changed model, in a process that has trained one.

    python benchmarks/peers/first_gradient.py torch eager|compiled mlp|cnn
    python benchmarks/peers/first_gradient.py jax mlp|cnn

As in a notebook: the framework is imported, and a model of another width has had its
gradient, so what a first call alone costs is over.
"""

import json
import sys
import time
from functools import partial

BATCH, WIDTHS = 128, (1.0, 1.25)  # before and after the change


def torch_gradient(compiles: bool, name: str, width: float) -> float:
    import torch
    import torch.nn.functional as F
    from timed import pixels
    from torch_models import build

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (torch.from_numpy(a[:BATCH]).to(device) for a in pixels(name))
    x = (images.float() / 255).permute(0, 3, 1, 2)
    begin = time.perf_counter()
    model = build(name, width).to(device)
    if compiles:
        model.compile(dynamic=False)
    F.cross_entropy(model(x), labels).backward()
    gradient = next(model.parameters()).grad
    assert gradient is not None
    gradient.norm().item()
    return time.perf_counter() - begin


def jax_gradient(name: str, width: float) -> float:
    import jax
    import optax
    from flax import nnx
    from jax_models import build
    from timed import pixels

    images, labels = (jax.device_put(a[:BATCH]) for a in pixels(name))
    x = images.astype("float32") / 255
    begin = time.perf_counter()
    graph, params, rest = nnx.split(build(name, width), nnx.Param, ...)

    @jax.jit
    def gradient(params):
        def loss(params):
            logits = nnx.merge(graph, params, rest)(x)
            of = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return of.mean()

        return jax.grad(loss)(params)

    jax.block_until_ready(gradient(params))
    return time.perf_counter() - begin


def main(framework: str, *more: str) -> None:
    if framework == "torch":
        gradient = partial(torch_gradient, more[0] == "compiled", more[1])
    else:
        gradient = partial(jax_gradient, more[0])
    *_, seconds = [gradient(width) for width in WIDTHS]
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
