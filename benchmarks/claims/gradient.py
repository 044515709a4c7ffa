"""Seconds to the first gradient of a changed model, in a process that has trained one.

    python benchmarks/claims/gradient.py torch eager|compiled mlp|cnn
    python benchmarks/claims/gradient.py jax mlp|cnn

As in a notebook: the framework is imported, and a model of another width has had its
gradient, so what a first call alone costs is over. The models are those of
benchmarks/peers, which are written as their framework's users write them.
"""

import json
import sys
import time
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent / "peers"
sys.path[0] = str(PEERS)

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
    next(model.parameters()).grad.norm().item()
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
    for width in WIDTHS:
        if framework == "torch":
            seconds = torch_gradient(more[0] == "compiled", more[1], width)
        else:
            seconds = jax_gradient(more[0], width)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
