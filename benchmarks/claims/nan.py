"""Name the layer that makes a NaN with the framework's own tool, and the seconds.

    python benchmarks/claims/nan.py torch|jax EXPERIMENT WEIGHTS.npz

PyTorch: a forward hook on every module. JAX: `jax.debug_nans`, which runs a compiled
function again operation by operation; the layer is in the frames of its error. JSON:
`named` and `seconds`, of this process from its start.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != HERE)]


def by_torch(config: Any, weights: Any, images: Any) -> str:
    import torch

    from torch_impl.model import build_model
    from torch_impl.parallel import World
    from torch_impl.weights import load_weights

    model = build_model(config)
    load_weights(model, weights, World(0, 1, 1, torch.device("cpu")))
    found = []

    def look(name: str) -> Any:
        def hook(module: Any, given: Any, output: Any) -> None:
            if not output.isfinite().all():
                found.append(name)

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(look(name or "model"))
    model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return found[0]


def by_jax(config: Any, weights: Any, images: Any) -> str:
    import jax
    from flax import nnx

    from jax_impl.model import build_model
    from jax_impl.weights import load_weights

    graph, params, rest = load_weights(build_model(config), weights)

    @jax.jit
    def forward(params: Any, images: Any) -> Any:
        return nnx.merge(graph, params, rest)(images)

    try:
        with jax.debug_nans(True):
            forward(params, images)
    except FloatingPointError as error:
        modules, at = [], error.__traceback__
        while at is not None:
            held = at.tb_frame.f_locals.get("self")
            if isinstance(held, nnx.Module):
                modules.append(held)
            at = at.tb_next
        names = {id(m): path for path, m in nnx.iter_modules(modules[0])}
        return ".".join(map(str, names[id(modules[-1])])) or "model"
    return "none"


def main(framework: str, recipe: str, file: str) -> None:
    import numpy as np

    from benchmarks.page import typed
    from data.dataset import load
    from record.environment import process_age_seconds

    config = typed([recipe])
    weights = dict(np.load(file))
    images = load(config.data).train_images[:8].astype(np.float32) / 255
    named = (by_torch if framework == "torch" else by_jax)(config, weights, images)
    print(json.dumps({"named": named, "seconds": process_age_seconds()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
