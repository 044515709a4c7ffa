"""The outputs for a whole split come in its order, from any batches and devices."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jax_impl import evaluate as jax_evaluate
from jax_impl import model as jax_model
from jax_impl import parallel as jax_parallel
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from recipe.pixels import pixel_affine
from tests.twins.conftest import TORCH
from tests.twins.steps import EXAMPLES, random_arrays, random_weights
from tests.twins.two_ranks import NORMED
from torch_impl import evaluate as torch_evaluate
from torch_impl import model as torch_model
from torch_impl import parallel as torch_parallel
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights

BATCH = 16  # of 24 examples: the last batch is padded


def in_torch(config, weights, arrays):
    """The outputs by batch, and those of one example at a time."""
    columns = *arrays, *pixel_affine(config)
    data = torch_step.DeviceData(*torch_parallel.replicate(columns, TORCH))
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    model.train()  # as after a step
    rows = torch_parallel.place_batch(np.arange(EXAMPLES, dtype=np.int32), TORCH)
    alone = [torch_step.predict_step(config, model, data, row[None])[0] for row in rows]
    found = torch_evaluate.predict(config, model, data, EXAMPLES, TORCH)
    return found, np.concatenate(alone)


def in_jax(config, weights, arrays, devices):
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (jax_parallel.AXIS,))
    world = jax_parallel.World(0, 1, devices, mesh)
    columns = *arrays, *pixel_affine(config)
    data = jax_step.DeviceData(*jax_parallel.replicate(columns, world))
    model = jax_model.build_model(config)
    graphdef, params, statistics = jax_weights.load_weights(model, weights)
    states = jax_parallel.replicate((params, statistics), world)
    rows = jax_parallel.place_batch(np.zeros(BATCH, np.int32), world)
    step = partial(jax_step.predict_step, config, graphdef)
    compiled, _ = jax_parallel.parallelize(step, (*states, data, rows), world, False)
    return jax_evaluate.predict(config, compiled, *states, data, EXAMPLES, world)


@pytest.mark.parametrize("devices", [1, 2])
def test_each_examples_outputs_stand_in_its_place_in_both_twins(devices, config):
    recipe = config(*NORMED, f"train.global_batch_size={BATCH}")
    weights, arrays = random_weights(recipe), random_arrays(recipe)
    found, alone = in_torch(recipe, weights, arrays)
    assert found.shape == (EXAMPLES, 10)
    np.testing.assert_allclose(found, alone, rtol=1e-12, atol=1e-14)
    by_jax = in_jax(recipe, weights, arrays, devices)
    np.testing.assert_allclose(by_jax, found, rtol=1e-12, atol=1e-14)
    apart = np.abs(found[:, None] - found).max(axis=-1) + np.eye(EXAMPLES)
    assert apart.min() > 1e-3  # another order would be seen
