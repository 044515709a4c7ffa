"""Either twin's outputs for a whole split, as its evaluation computes them."""

from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from jax_impl import evaluate as jax_evaluate
from jax_impl import model as jax_model
from jax_impl import parallel as jax_parallel
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from recipe.pixels import pixel_affine
from tests.twins.conftest import TORCH
from torch_impl import evaluate as torch_evaluate
from torch_impl import model as torch_model
from torch_impl import parallel as torch_parallel
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights


def torch_parts(config, weights, arrays):
    """The model with its weights, in training mode as after a step, and the data."""
    columns = *arrays, *pixel_affine(config)
    data = torch_step.DeviceData(*torch_parallel.replicate(columns, TORCH))
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    model.train()
    return model, data


def torch_outputs(config, weights, arrays):
    model, data = torch_parts(config, weights, arrays)
    return torch_evaluate.predict(config, model, data, len(arrays[0]), TORCH)


def jax_outputs(config, weights, arrays, devices=1):
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (jax_parallel.AXIS,))
    world = jax_parallel.World(0, 1, devices, mesh)
    columns = *arrays, *pixel_affine(config)
    data = jax_step.DeviceData(*jax_parallel.replicate(columns, world))
    model = jax_model.build_model(config)
    graphdef, params, statistics = jax_weights.load_weights(model, weights)
    states = jax_parallel.replicate((params, statistics), world)
    batch = np.zeros(config.train.global_batch_size, np.int32)
    rows = jax_parallel.place_batch(batch, world)
    step = partial(jax_step.predict_step, config, graphdef)
    compiled, _ = jax_parallel.parallelize(step, (*states, data, rows), world, False)
    return jax_evaluate.predict(config, compiled, *states, data, len(arrays[0]), world)
