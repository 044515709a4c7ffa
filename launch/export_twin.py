"""One twin's part of an export: its files, and on request the logits to compare with.

    python -m launch.export_twin torch|jax FOLDER WHAT...

FOLDER holds config.yaml, weights.safetensors and images.npy. Each of WHAT is a format,
whose file and facts are written to FOLDER, or `logits`, the model's as the twin
evaluates it. Exit status 2 with one line if it cannot. A separate process, since it
imports a framework.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from launch.own_twin import world_of
from recipe.config import Config, from_yaml
from recipe.errors import DuetError
from recipe.formats import FORMATS
from recipe.pixels import pixel_affine
from recipe.weights import Weights

CONFIG, WEIGHTS, IMAGES = "config.yaml", "weights.safetensors", "images.npy"
LOGITS = "logits.npy"
BATCH = 256  # images at once


def torch_logits(config: Config, weights: Weights, images: np.ndarray) -> np.ndarray:
    """As an evaluation computes them: the model that was trained, and its `gather`."""
    import torch

    from torch_impl.export import ALONE
    from torch_impl.model import build_model
    from torch_impl.parallel import replicate
    from torch_impl.step import DeviceData, gather
    from torch_impl.weights import load_weights

    model = build_model(config)
    load_weights(model, weights, ALONE)
    model.eval()
    arrays = images, np.zeros(len(images), np.int32), *pixel_affine(config)
    data = DeviceData(*(replicate(array, ALONE) for array in arrays))
    with torch.no_grad():
        batches = torch.arange(len(images)).split(BATCH)
        found = [model(gather(config, data, indices)[0]) for indices in batches]
    return torch.cat(found).numpy()


def jax_logits(config: Config, weights: Weights, images: np.ndarray) -> np.ndarray:
    """As an evaluation computes them: the model that was trained, and its `gather`."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jax_impl.model import build_model
    from jax_impl.step import DeviceData, gather
    from jax_impl.weights import load_weights

    graphdef, *states = load_weights(build_model(config), weights)
    arrays = images, np.zeros(len(images), np.int32), *pixel_affine(config)
    data = DeviceData(*map(jnp.asarray, arrays))

    @jax.jit
    def evaluated(states: Any, data: DeviceData, indices: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, *states)
        model.eval()
        return model(gather(config, data, indices)[0])

    starts = range(0, len(images), BATCH)
    batches = [
        np.arange(s, min(s + BATCH, len(images)), dtype=np.int32) for s in starts
    ]
    return np.concatenate([evaluated(states, data, indices) for indices in batches])


def main(framework: str, folder: Path, *wanted: str) -> None:
    """Write to the folder what is wanted.

    Raises:
      DuetError: naming the format that the model has none of, and why.
    """
    config = from_yaml((folder / CONFIG).read_text())
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    world_of(framework, config)
    if framework == "torch":
        from torch_impl.export import write_model
    else:
        from jax_impl.export import write_model
    for format in wanted:
        try:
            if format == "logits":
                logits = {"torch": torch_logits, "jax": jax_logits}[framework]
                images = np.load(folder / IMAGES)
                np.save(folder / LOGITS, logits(config, weights, images))
                continue
            facts = write_model(config, weights, format, folder / FORMATS[format].file)
        except Exception as error:  # of the exporters, and of a custom model's code
            text = " ".join(str(error).split())
            kind = "" if isinstance(error, DuetError) else f"{type(error).__name__}: "
            raise DuetError(f"{format}: {kind}{text[:600]}") from error
        (folder / f"{format}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    framework, place, *rest = sys.argv[1:]
    try:
        main(framework, Path(place), *rest)
    except DuetError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
