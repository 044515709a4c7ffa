"""Both twins multiply the same int8 numbers, and get the same sums bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_impl import model as jax_model
from jax_impl import quantise as jax_quantise
from jax_impl import weights as jax_weights
from recipe.quantise import Int8Layer, quantise
from recipe.weights import random_weights
from tests.conftest import exhaustive_but
from tests.twins.conftest import TORCH
from tests.twins.small_models import MODELS
from torch_impl import model as torch_model
from torch_impl import quantise as torch_quantise
from torch_impl import weights as torch_weights


@pytest.fixture
def generator():
    return np.random.default_rng(1)


def layer_of(generator, *shape):
    """A layer whose sums are too large for fp32 to hold them."""
    kernel = generator.choice([-1, 126, 127], shape).astype(np.int8)
    bias = generator.integers(-(2**20), 2**20, shape[-1], dtype=np.int32)
    return Int8Layer(kernel, bias, np.float32(0.5), np.ones(shape[-1], np.float32))


@pytest.mark.parametrize(("size", "stride", "padding"), [(5, 1, 0), (3, 2, 1)])
def test_sums_of_a_convolution_are_the_same_bits(size, stride, padding, generator):
    layer = layer_of(generator, size, size, 256, 8)
    x = generator.choice([126, 127], (2, 12, 12, 256)).astype(np.int8)
    given = layer, stride, padding
    in_torch = torch_quantise.conv_sums(torch.tensor(x).permute(0, 3, 1, 2), *given)
    in_jax = jax_quantise.conv_sums(jnp.asarray(x), *given)
    assert in_torch.dtype == torch.int32 and in_jax.dtype == jnp.int32
    assert (np.asarray(in_jax).astype(np.float32) != np.asarray(in_jax)).any()
    assert np.array_equal(in_torch.permute(0, 2, 3, 1).numpy(), in_jax)


def test_sums_of_a_dense_layer_are_the_same_bits(generator):
    layer = layer_of(generator, 4096, 8)
    x = generator.choice([126, 127], (3, 5, 4096)).astype(np.int8)
    in_torch = torch_quantise.dense_sums(torch.tensor(x), layer)
    in_jax = jax_quantise.dense_sums(jnp.asarray(x), layer)
    assert in_torch.dtype == torch.int32 and in_jax.dtype == jnp.int32
    assert (np.asarray(in_jax).astype(np.float32) != np.asarray(in_jax)).any()
    assert np.array_equal(in_torch.numpy(), in_jax)


def test_a_bias_beside_tiny_weights_or_none_is_kept():
    kernel, bias = np.array([[1e-12, 0, 0.5]]), np.array([1.0, 0.3, 0.1])
    layer = quantise({"a.kernel": kernel, "a.bias": bias}, {"a": 1000.0})["a"]
    assert layer.bias is not None
    found = layer.bias * layer.scale.astype(np.float64)
    assert np.allclose(found[:2], bias[:2], rtol=1e-6)
    assert abs(found[2] - bias[2]) <= layer.scale[2] / 2


def test_inputs_are_rounded_to_the_same_integers(generator):
    layer = layer_of(generator, 4, 4)
    halves = np.arange(-300, 300, dtype=np.float32) * 0.25  # every half, and beyond
    x = np.concatenate([halves, generator.normal(0, 30, 10_000).astype(np.float32)])
    in_torch = torch_quantise.to_int8(torch.tensor(x), layer).numpy()
    in_jax = np.asarray(jax.jit(lambda x: jax_quantise.to_int8(x, layer))(x))
    assert in_torch.dtype == in_jax.dtype == np.int8
    assert np.array_equal(in_torch, in_jax)
    assert in_torch[:600].min() == -127 and in_torch[:600].max() == 127


@pytest.mark.parametrize("model", exhaustive_but(["cnn"], MODELS))
def test_a_model_in_int8_is_the_same_in_both_twins(model, config, generator):
    given = config(*MODELS[model], "precision=fp32")
    weights = random_weights(given)
    images = generator.normal(size=(4, *given.data.image_shape)).astype(np.float32)
    nchw = torch.tensor(images).permute(0, 3, 1, 2)

    in_torch = torch_model.build_model(given)
    torch_weights.load_weights(in_torch, weights, TORCH)
    in_torch.eval()
    graphdef, *states = jax_weights.load_weights(jax_model.build_model(given), weights)
    in_jax = nnx.merge(graphdef, *jax.tree.map(jnp.asarray, states))
    in_jax.eval()

    largest = torch_quantise.largest_inputs(in_torch, nchw)
    assert list(jax_quantise.largest_inputs(in_jax, images)) == list(largest)
    exact = in_torch(nchw).detach().numpy()
    layers = quantise(weights, largest)
    torch_quantise.use_int8(in_torch, layers)
    jax_quantise.use_int8(in_jax, layers)
    found = in_torch(nchw).detach().numpy(), np.asarray(in_jax(images))
    size = np.abs(exact).max()
    assert np.abs(found[0] - exact).max() > 1e-6 * size  # it is another computation
    # Between sums norms and nonlinearities round in fp32, so a number next to a half
    # may become another integer, a 127th of its layer's largest.
    assert np.abs(found[0] - found[1]).max() <= 0.02 * size


def test_sums_that_int32_may_not_hold_are_refused():
    weights = {"dense.kernel": np.ones((140_000, 1), np.float32)}
    with pytest.raises(ValueError, match="dense sums 140000 products; int32 holds"):
        quantise(weights, {"dense": 1.0})
    with pytest.raises(ValueError, match="the largest magnitude of its input is 0"):
        quantise({"dense.kernel": np.ones((2, 1))}, {"dense": 0.0})
