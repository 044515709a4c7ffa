"""Both twins in one process: on a CPU they do not get in each other's way."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest
import torch
from jax.sharding import Mesh

from jax_impl.parallel import World as JaxWorld
from tests.twins.steps import jax_steps, random_arrays, torch_steps
from torch_impl.parallel import World as TorchWorld

TORCH = TorchWorld(0, 1, 1, torch.device("cpu"))

# For the tests of JAX over several; the others take the first.
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(autouse=True)
def proof_mode() -> Iterator[None]:
    """JAX has no fp64 unless asked."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def worlds() -> tuple[TorchWorld, JaxWorld]:
    mesh = Mesh(np.array(jax.local_devices()[:1]), ("data",))
    return TORCH, JaxWorld(0, 1, 1, mesh)


@pytest.fixture
def arrays():
    """Random images with labels for classes or for regression."""
    return random_arrays


@pytest.fixture
def twins(arrays, worlds):
    """Either twin as a function: batches -> metrics of each step, weights."""

    def make(config, weights, given=None):
        data = given or arrays(config)

        def run(steps, world):
            def twin(batches, rate=0.1):
                return steps(config, weights, data, batches, rate, world)

            return twin

        return tuple(map(run, (torch_steps, jax_steps), worlds))

    return make
