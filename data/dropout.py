"""The key of an example's dropout mask: from (seed, layer, epoch, index).

Drawn here in NumPy, independent of batch and world size; each twin computes the masks
on the device, as `recipe/dropout.py` says.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from recipe.batch_plan import BatchPlan
from recipe.config import Config
from recipe.dropout import dropout_layers
from recipe.rng import keyed_generator


@lru_cache(
    maxsize=2
)  # a step needs its own epoch only; two avoid recomputing at the boundary
def epoch_keys(
    seed: int, layers: tuple[str, ...], epoch: int, examples: int
) -> Int[np.ndarray, "examples layers"]:
    """An int32 key in [0, 2^31) for each example of an epoch at each layer.

    Keyed by the layer's name, so that adding a layer changes no other's masks.
    """
    keys = np.empty((examples, len(layers)), np.int32)
    for column, layer in enumerate(layers):
        generator = keyed_generator(seed, "dropout", layer, epoch)
        keys[:, column] = generator.integers(2**31, size=examples, dtype=np.int32)
    keys.setflags(write=False)
    return keys


def batch_keys(
    config: Config, plan: BatchPlan, step: int, indices: Int[np.ndarray, "*rows"]
) -> Int[np.ndarray, "*rows layers"] | None:
    """The keys of a batch at a step; None without dropout."""
    layers = dropout_layers(config)
    if not layers:
        return None
    return epoch_keys(plan.seed, layers, plan.epoch(step), plan.examples)[indices]
