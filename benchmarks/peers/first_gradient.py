"""Seconds to the first gradient of a changed model, in a process that has trained one.

    python benchmarks/peers/first_gradient.py torch eager|compiled
    python benchmarks/peers/first_gradient.py jax

As in a notebook: the framework is imported, and the CNN has had its gradient, so what a
first call alone costs is over; then its hidden layer gets more features.
"""

import json
import sys
import time
from functools import partial

BATCH, HIDDEN = 128, (50, 60)  # features before and after the change


def torch_gradient(compiles: bool, hidden: int) -> float:
    import torch
    import torch.nn.functional as F
    from timed import pixels
    from torch import nn
    from torch_models import build

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (torch.from_numpy(a[:BATCH]).to(device) for a in pixels("cnn"))
    x = (images.float() / 255).permute(0, 3, 1, 2)
    begin = time.perf_counter()
    built = build("cnn", 1)
    assert isinstance(built, nn.Sequential)
    *before, _, relu, _ = built
    after = nn.Linear(320, hidden), relu, nn.Linear(hidden, 10)
    model = nn.Sequential(*before, *after).to(device)
    if compiles:
        model.compile(dynamic=False)
    F.cross_entropy(model(x), labels).backward()
    gradient = next(model.parameters()).grad
    assert gradient is not None
    gradient.norm().item()
    return time.perf_counter() - begin


def jax_gradient(hidden: int) -> float:
    import jax
    import optax
    from flax import nnx
    from jax_models import CNN, RNGS
    from timed import pixels

    images, labels = (jax.device_put(a[:BATCH]) for a in pixels("cnn"))
    x = images.astype("float32") / 255
    begin = time.perf_counter()
    model = CNN()
    model.dense1 = nnx.Linear(320, hidden, rngs=RNGS)
    model.dense2 = nnx.Linear(hidden, 10, rngs=RNGS)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def gradient(params, x, labels):
        def loss(params):
            logits = nnx.merge(graph, params, rest)(x)
            of = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return of.mean()

        return jax.grad(loss)(params)

    jax.block_until_ready(gradient(params, x, labels))
    return time.perf_counter() - begin


def main(framework: str, *more: str) -> None:
    if framework == "torch":
        gradient = partial(torch_gradient, more[0] == "compiled")
    else:
        gradient = jax_gradient
    *_, seconds = [gradient(features) for features in HIDDEN]
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
