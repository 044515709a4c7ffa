"""Both twins in one process: on a CPU they do not get in each other's way."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest
import torch
from jax.sharding import Mesh

from jax_impl.parallel import World as JaxWorld
from recipe.config import Config
from recipe.weights import Weights, weight_shapes
from torch_impl.parallel import World as TorchWorld

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
    """No number is zero: with zero biases a wrong layer would stay invisible."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(0, 0.2, shape)
        for name, shape in weight_shapes(config).items()
    }
