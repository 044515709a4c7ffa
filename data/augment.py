"""Augmentation parameters of every example and epoch: from (seed, epoch, index).

Drawn here in NumPy and applied on the device by each framework, so that an example is
cropped and flipped the same way in both, at every batch and world size.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from recipe.batch_plan import BatchPlan
from recipe.config import Config
from recipe.rng import keyed_generator


class Draws(NamedTuple):
    """The random augmentation parameters of each example of a batch.

    Args:
      top, left: of the crop in the image padded by `pad` on each side, 0 to 2 pad.
      flip: whether the crop is mirrored left to right.
      cut_top, cut_left: centre of the cut-out square, a pixel of the image.
    """

    top: Int[np.ndarray, " B"]
    left: Int[np.ndarray, " B"]
    flip: Bool[np.ndarray, " B"]
    cut_top: Int[np.ndarray, " B"]
    cut_left: Int[np.ndarray, " B"]


@lru_cache(
    maxsize=10
)  # five parameters; a step needs its own epoch, two avoid recomputing at the boundary
def epoch_draw(
    seed: int, what: str, epoch: int, examples: int, stop: int
) -> Int[np.ndarray, " examples"]:
    """A random int32 in [0, stop) for each example of an epoch; free for a stop of 1.

    Keyed by `what`, so that one augmentation does not change another's parameters.
    """
    generator = keyed_generator(seed, "augment", what, epoch)
    return generator.integers(stop, size=examples, dtype=np.int32)


def batch_draws(
    config: Config, plan: BatchPlan, step: int, indices: Int[np.ndarray, " B"]
) -> Draws | None:
    """The augmentation parameters of a batch at a step; None without augmentation.

    Those of an augmentation that is off are 0.
    """
    augment = config.data.augment
    if not augment.any:
        return None
    height, width, _ = config.data.image_shape

    def draw(what: str, stop: int) -> np.ndarray:
        epoch = plan.epoch(step)
        return epoch_draw(plan.seed, what, epoch, plan.examples, stop)[indices]

    return Draws(
        draw("top", 2 * augment.pad_crop + 1),
        draw("left", 2 * augment.pad_crop + 1),
        draw("flip", 2 if augment.flip else 1) == 1,
        draw("cut_top", height if augment.cutout else 1),
        draw("cut_left", width if augment.cutout else 1),
    )
