"""The same pixels in both twins, bit for bit, and those that NumPy would make."""

from functools import partial

import jax
import numpy as np
import pytest
import torch

from data.augment import batch_draws
from jax_impl import step as jax_step
from jax_impl.parallel import place_batch as jax_batch
from jax_impl.parallel import replicate as jax_place
from recipe.batch_plan import BatchPlan
from recipe.pixels import pixel_affine
from tests.twins.conftest import TORCH
from torch_impl import step as torch_step
from torch_impl.parallel import place_batch as torch_batch
from torch_impl.parallel import replicate as torch_place

EXAMPLES = 40
KINDS = {
    "crop": ["data.augment.pad_crop=4"],
    "flip": ["data.augment.flip=true"],
    "cutout": ["data.augment.cutout=9"],
    "all": [
        *("data.augment.pad_crop=3", "data.augment.flip=true"),
        "data.augment.cutout=8",
    ],
}


def expected(config, images, draws):
    """One image at a time, the slow and obvious way."""
    augment, (mean, scale) = config.data.augment, pixel_affine(config)
    pad, size = augment.pad_crop, augment.cutout
    height, width, _ = images.shape[1:]
    out = []
    for i, image in enumerate(images):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        top, left = draws.top[i], draws.left[i]
        crop = padded[top : top + height, left : left + width]
        if augment.flip and draws.flip[i]:
            # The crop's mirror image, of the same place.
            crop = crop[:, ::-1]
        crop = (crop.astype(mean.dtype) - mean) * scale
        top, left = draws.cut_top[i] - size // 2, draws.cut_left[i] - size // 2
        crop[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
        out.append(crop)
    return np.stack(out)


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("kind", KINDS)
def test_augmented_pixels_are_numpys_bit_for_bit(kind, precision, make_config, worlds):
    shape = ["data=synthetic", "data.image_shape=[13,17,3]", "data.classes=10"]
    colour = ["data.mean=[0.4,0.5,0.6]", "data.std=[0.2,0.3,0.25]"]
    config = make_config(*shape, *colour, *KINDS[kind], f"precision={precision}")
    images = np.random.default_rng(0).integers(
        256, size=(EXAMPLES, 13, 17, 3), dtype=np.uint8
    )
    labels = np.zeros(EXAMPLES, np.int32)
    plan = BatchPlan(seed=0, examples=EXAMPLES, global_batch_size=32, steps=3)
    indices = plan.indices(2)
    draws = batch_draws(config, plan, 2, indices)
    right = expected(config, images[indices], draws)
    data = (images, labels, *pixel_affine(config))

    placed = torch_step.DeviceData(*(torch_place(a, TORCH) for a in data))
    in_torch, _ = torch_step.gather(
        config, placed, torch.tensor(indices), torch_batch(draws, TORCH)
    )
    np.testing.assert_array_equal(in_torch.permute(0, 2, 3, 1).numpy(), right)

    jax_placed = jax_step.DeviceData(*jax_place(data, worlds[1]))
    gather = jax.jit(partial(jax_step.gather, config))
    in_jax, _ = gather(jax_placed, indices, jax_batch(draws, worlds[1]))
    np.testing.assert_array_equal(np.asarray(in_jax), right)

    plain, _ = torch_step.gather(config, placed, torch.tensor(indices))
    assert (plain.permute(0, 2, 3, 1).numpy() != right).any()  # and it did something
