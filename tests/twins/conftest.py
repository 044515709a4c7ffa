"""Both twins in one process: on a CPU they do not get in each other's way."""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
import pytest
import torch
from jax.sharding import Mesh

from data.augment import batch_draws
from jax_impl import model as jax_model
from jax_impl import optim as jax_optim
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from jax_impl.parallel import World as JaxWorld
from jax_impl.parallel import replicate as jax_place
from recipe.batch_plan import BatchPlan
from recipe.config import Config
from recipe.loss_scale import initial_loss_scale
from recipe.pixels import pixel_affine
from recipe.weights import Weights, weight_shapes
from torch_impl import model as torch_model
from torch_impl import optim as torch_optim
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights
from torch_impl.parallel import World as TorchWorld
from torch_impl.parallel import place_batch as torch_batch
from torch_impl.parallel import replicate as torch_place

EXAMPLES = 24
PLAN = BatchPlan(seed=0, examples=EXAMPLES, global_batch=8, steps=5)
TORCH = TorchWorld(0, 1, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def proof_mode() -> Iterator[None]:
    """JAX has no fp64 unless asked."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def worlds() -> tuple[TorchWorld, JaxWorld]:
    mesh = Mesh(np.array(jax.local_devices()[:1]), ("data",))
    return TORCH, JaxWorld(0, 1, 1, mesh, pmap=False)


def random_weights(config: Config, seed: int = 0) -> Weights:
    """No number is zero: with zero biases a wrong layer would stay invisible.

    Scales lie around 1, variances are positive.
    """
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        weights[name] = generator.normal(name.endswith(".scale"), 0.2, shape)
        if name.endswith(".var"):
            weights[name] = generator.uniform(0.5, 2, shape)
    return weights


@pytest.fixture
def arrays():
    """Random images with labels for classes or for regression."""

    def make(config):
        generator = np.random.default_rng(1)
        shape = (EXAMPLES, *config.data.image_shape)
        images = generator.integers(256, size=shape, dtype=np.uint8)
        if config.data.classes:
            return images, generator.integers(10, size=EXAMPLES, dtype=np.int32)
        return images, generator.normal(size=EXAMPLES)

    return make


@pytest.fixture
def twins(arrays, worlds):
    """Either twin as a function: indices, steps -> step metrics, weights.

    The metrics are rows of loss, gradient norm, loss scale, and whether it was skipped.
    """

    def make(config, weights, given=None):
        data = (*(given or arrays(config)), *pixel_affine(config))

        def in_torch(batches, rate=0.1):
            placed = torch_step.DeviceData(*(torch_place(a, TORCH) for a in data))
            model = torch_model.build_model(config)
            torch_weights.load_weights(model, weights, TORCH)
            optimizer = torch_optim.build_optimizer(config, model)
            scale, seen = initial_loss_scale(config), []
            for i, batch in enumerate(batches):
                rows = batch.reshape(config.train.accumulate, -1)
                draws = batch_draws(config, PLAN, i, rows)
                scale, metrics = torch_step.train_step(
                    *(config, model, optimizer, placed),
                    *(torch_batch(columns, TORCH, 1) for columns in (rows, draws)),
                    *(rate, scale, TORCH),
                )
                seen.append([float(number) for number in metrics])
            return np.array(seen), torch_weights.save_weights(model, TORCH)

        def in_jax(batches, rate=0.1):
            placed = jax_step.DeviceData(*jax_place(data, worlds[1]))
            graphdef, params, statistics = jax_weights.load_weights(
                jax_model.build_model(config), weights
            )
            optimizer = jax_optim.build_optimizer(config, params)
            state = jax_step.TrainState(
                *(params, statistics, optimizer.init(params)),
                initial_loss_scale(config),
            )
            state = jax_place(state, worlds[1])
            step = jax.jit(
                partial(jax_step.train_step, config, graphdef, optimizer, worlds[1])
            )
            seen = []
            for i, batch in enumerate(batches):
                rows = batch.reshape(config.train.accumulate, -1)
                draws = batch_draws(config, PLAN, i, rows)
                state, metrics = step(state, placed, rows, draws, rate)
                seen.append([float(number) for number in metrics])
            saved = jax_weights.save_weights(state.params, state.statistics, worlds[1])
            return np.array(seen), saved

        return in_torch, in_jax

    return make
