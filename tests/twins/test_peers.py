"""A peer is the twin's own model: its parameters, and the loss they begin with."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from benchmarks.all import MODELS, recipe
from recipe.weights import initial_weights, is_trained
from tests.conftest import exhaustive_but
from torch_impl.model import build_model
from torch_impl.parallel import World
from torch_impl.weights import load_weights

pytestmark = pytest.mark.usefixtures("promotion")  # plain Flax leaves it to JAX
WIDTHS = {"resnet9": 0.125, "resnet18": 0.125, "vit_tiny": 0.25}


@pytest.fixture
def peers(root, monkeypatch):
    """The modules of benchmarks/peers, which are scripts beside each other."""
    monkeypatch.syspath_prepend(root / "benchmarks" / "peers")
    yield
    for name in "torch_models", "jax_models", "timed":
        sys.modules.pop(name, None)


@pytest.fixture(params=exhaustive_but(["cnn"], MODELS))
def given(request, make_config):
    """A cell's peer, initial weights, images with labels, and the twin's first loss."""
    cell = request.param
    width = [f"model.width={WIDTHS[cell]}"] if cell in WIDTHS else []
    config = make_config(*recipe(cell), *width)
    weights = initial_weights(config)
    generator = np.random.default_rng(0)
    shape = 8, *config.data.image_shape
    images = generator.standard_normal(shape).astype(np.float32)
    labels = generator.integers(10, size=8)
    twin = build_model(config)
    load_weights(twin, weights, World(0, 1, 1, torch.device("cpu")))
    loss = F.cross_entropy(
        twin.train()(torch.from_numpy(images.transpose(0, 3, 1, 2))),
        torch.from_numpy(labels),
    )
    peer = MODELS[cell].get("peer", cell)
    return peer, weights, images, labels, loss.item()


def trained(weights, last=lambda name: False):
    """Name and array of what is trained, in forward order, or with some at the end."""
    names = [name for name in weights if is_trained(name)]
    return [(name, weights[name]) for name in sorted(names, key=last)]


def test_the_torch_peer_begins_with_the_twins_loss(peers, given):
    from torch_models import build

    cell, weights, images, labels, expected = given
    model = build(cell, WIDTHS.get(cell, 1.0))
    # A module's own parameter comes before those of its layers.
    named = trained(weights, last=lambda name: name != "position.embedding")
    for parameter, (name, array) in zip(model.parameters(), named, strict=True):
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif name.endswith("kernel"):
            if cell == "cnn" and name == "dense.0.kernel":  # flattened as C, H, W here
                array = array.reshape(4, 4, 20, -1).transpose(2, 0, 1, 3)
            array = array.reshape(-1, array.shape[-1]).T
        assert parameter.shape == array.shape, name
        parameter.data = torch.from_numpy(array.copy())
    logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    loss = F.cross_entropy(logits, torch.from_numpy(labels)).item()
    assert loss == pytest.approx(expected, rel=1e-5)


def variables(module):
    """The parameters of a Flax module, as they were assigned."""
    for part in vars(module).values():
        if isinstance(part, nnx.Param):
            if part[...] is not None:
                yield part
        elif isinstance(part, nnx.Module):
            yield from variables(part)


def test_the_jax_peer_begins_with_the_twins_loss(peers, given):
    from jax_models import build

    cell, weights, images, labels, expected = given
    model = build(cell, WIDTHS.get(cell, 1.0))
    named = trained(weights, last=lambda n: (n.startswith("head"), "residual" in n))
    for variable, (name, array) in zip(variables(model), named, strict=True):
        assert variable.shape == array.shape, name
        variable[...] = jnp.asarray(array)
    graphdef, state = nnx.split(model)  # compiled whole: each operation takes its time
    logits = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    assert float(losses.mean()) == pytest.approx(expected, rel=1e-5)
