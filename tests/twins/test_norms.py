"""Normalisation by its formula, in both twins."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from jax_impl import layers as jax_layers
from jax_impl.precision import Dtypes as JaxDtypes
from recipe.errors import ConfigError
from recipe.experiment import NormConfig
from torch_impl import layers as torch_layers
from torch_impl.precision import Dtypes as TorchDtypes

NORM = NormConfig(momentum=0.3, eps=1e-3, groups=2)
LEAVES = {"scale": np.array([1.5, -2.0, 0.5, 3.0]), "bias": np.array([0.1, 0, 2, -1])}


def in_torch(kind, x, dtype, training=True):
    """Outputs in NHWC, and the layer."""
    precise = getattr(torch, dtype)
    layer = torch_layers.NORMS[kind](4, NORM, TorchDtypes(precise, precise))
    with torch.no_grad():
        for name, value in LEAVES.items():
            getattr(layer, name).copy_(torch.tensor(value))
    layer.train(training)
    y = layer(torch.tensor(x.astype(dtype)).permute(0, 3, 1, 2))
    return y.detach().permute(0, 2, 3, 1).numpy(), layer


def in_jax(kind, x, dtype, training=True):
    precise = np.dtype(dtype)
    layer = jax_layers.NORMS[kind](4, NORM, JaxDtypes(precise, precise))
    for name, value in LEAVES.items():
        getattr(layer, name).set_value(jax.numpy.asarray(value, precise))
    (layer.train if training else layer.eval)()
    return np.asarray(layer(jax.numpy.asarray(x, precise))), layer


TWINS = pytest.mark.parametrize("twin", [in_torch, in_jax])


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(2, 3, (3, 5, 2, 4))


def normalised(x, axes):
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt(x.var(axes, keepdims=True) + NORM.eps)


@TWINS
@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_each_norm_is_its_formula(twin, kind, x):
    if kind == "group":
        grouped = x.reshape(3, 5, 2, 2, 2)
        right = normalised(grouped, (1, 2, 4)).reshape(x.shape)
    else:
        right = normalised(x, {"batch": (0, 1, 2), "layer": (3,)}[kind])
    right = right * LEAVES["scale"] + LEAVES["bias"]
    np.testing.assert_allclose(twin(kind, x, "float64")[0], right, rtol=1e-12)


@TWINS
def test_running_statistics_move_by_the_momentum_with_an_unbiased_variance(twin, x):
    _, layer = twin("batch", x, "float64")
    mean = 0.3 * x.mean((0, 1, 2))
    var = 0.7 + 0.3 * x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(np.asarray(layer.mean[...]), mean, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(layer.var[...]), var, rtol=1e-12)
    # The other conventions are far away.
    assert abs(0.7 + 0.3 * x.var((0, 1, 2)) - var).min() > 1e-3
    assert abs(0.7 * x.mean((0, 1, 2)) - mean).min() > 1e-3


@TWINS
def test_evaluation_takes_the_running_statistics_and_leaves_them(twin, x):
    found, layer = twin("batch", x, "float64", training=False)
    right = x / np.sqrt(1 + NORM.eps) * LEAVES["scale"] + LEAVES["bias"]
    np.testing.assert_allclose(found, right, rtol=1e-12)
    assert np.asarray(layer.mean[...]).tolist() == [0.0] * 4


@TWINS
def test_one_value_per_channel_is_refused(twin):
    with pytest.raises(ConfigError, match="over one value per channel has no variance"):
        twin("batch", np.ones((1, 1, 1, 4)), "float64")
    twin("batch", np.ones((1, 1, 1, 4)), "float64", training=False)


@TWINS
@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_a_large_mean_does_not_drown_a_small_variance(twin, kind, x):
    """The variance as E[x²] - E[x]² would be wrong by more than its own size here."""
    x = (100 + 0.01 * x).astype(np.float32)
    right = twin(kind, x.astype(np.float64), "float64")[0]
    assert abs(twin(kind, x, "float32")[0] - right).max() < 2e-3
    fast = nnx.BatchNorm(4, use_fast_variance=True, epsilon=NORM.eps, rngs=nnx.Rngs(0))
    fast_x = np.asarray(fast(jax.numpy.asarray(x)))
    assert abs(fast_x - normalised(x.astype(np.float64), (0, 1, 2))).max() > 1e-3


@pytest.mark.parametrize("size", [4, 5, 7])
def test_padded_max_pool_is_the_same_in_values_and_gradients(size):
    # Negative pixels, since padding with zeros would win over them.
    x = np.random.default_rng(0).integers(-9, -1, size=(2, size, size, 3)) * 1.0
    tensor = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    pooled = torch_layers.max_pool(tensor, size=3, padding=1).permute(0, 2, 3, 1)
    weight = np.random.default_rng(1).normal(size=pooled.shape)
    (pooled * torch.tensor(weight)).sum().backward()
    in_jax = jax.value_and_grad(
        lambda x: (jax_layers.max_pool(x, size=3, padding=1) * weight).sum()
    )
    found, gradient = jax.jit(in_jax)(x)
    np.testing.assert_allclose(found, (pooled.detach().numpy() * weight).sum())
    np.testing.assert_allclose(gradient, tensor.grad.permute(0, 2, 3, 1).numpy())
    assert pooled.max() < 0
