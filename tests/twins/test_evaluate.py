"""The outputs for a whole split come in its order, from any batches and devices."""

import numpy as np
import pytest

from tests.twins.conftest import TORCH
from tests.twins.outputs import jax_outputs, torch_outputs, torch_parts
from tests.twins.steps import EXAMPLES, random_arrays, random_weights
from tests.twins.two_ranks import NORMED
from torch_impl import parallel as torch_parallel
from torch_impl import step as torch_step

BATCH = 16  # of 24 examples: the last batch is padded


def one_at_a_time(config, weights, arrays):
    model, data = torch_parts(config, weights, arrays)
    rows = torch_parallel.place_batch(np.arange(EXAMPLES, dtype=np.int32), TORCH)
    alone = [torch_step.predict_step(config, model, data, row[None])[0] for row in rows]
    return np.concatenate(alone)


@pytest.mark.parametrize("devices", [1, 2])
def test_each_examples_outputs_stand_in_its_place_in_both_twins(devices, config):
    recipe = config(*NORMED, f"train.global_batch_size={BATCH}")
    weights, arrays = random_weights(recipe), random_arrays(recipe)
    alone = one_at_a_time(recipe, weights, arrays)
    found = torch_outputs(recipe, weights, arrays)
    assert found.shape == (EXAMPLES, 10)
    np.testing.assert_allclose(found, alone, rtol=1e-12, atol=1e-14)
    by_jax = jax_outputs(recipe, weights, arrays, devices)
    np.testing.assert_allclose(by_jax, found, rtol=1e-12, atol=1e-14)
    apart = np.abs(found[:, None] - found).max(axis=-1) + np.eye(EXAMPLES)
    assert apart.min() > 1e-3  # another order would be seen
