"""Where fp32 in the twins would part further than the rounding of a sum takes it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_impl import optim as jax_optim
from jax_impl import step as jax_step
from jax_impl.parallel import replicate
from recipe.pixels import pixel_affine


@pytest.fixture(autouse=True)
def proof_mode():
    """A run in fp32 has no fp64."""
    with jax.enable_x64(False):
        yield


FP32 = "precision=fp32", "optim=adamw", "optim.nesterov=false"


def adam_updates(transformation, steps):
    """Of a constant gradient of 1, whose corrected moments are 1 at every step."""
    state = transformation.init(jnp.zeros((), jnp.float32))
    state = state._replace(mu=jnp.float32(0), nu=jnp.float32(0))
    update, updates = jax.jit(transformation.update), []
    for _ in range(steps):
        value, state = update(jnp.float32(1), state)
        updates.append(float(value))
    return np.array(updates)


@pytest.mark.parametrize("beta2", [0.9, 0.999, 0.9999])
def test_adamws_bias_correction_is_right_to_fp32s_rounding(make_config, beta2):
    config = make_config(*FP32, f"optim.beta2={beta2}")
    updates = adam_updates(jax_optim.corrected_moments(config), 20)
    np.testing.assert_allclose(updates, 1, rtol=1e-6)


def test_optaxs_own_bias_correction_would_be_noticed(make_config):
    o = make_config(*FP32).optim
    off = adam_updates(optax.scale_by_adam(o.beta1, o.beta2, o.eps), 20) - 1
    assert off.max() < -3e-6


def test_a_beta_of_zero_corrects_nothing(make_config):
    config = make_config(*FP32, "optim.beta1=0", "optim.beta2=0")
    updates = adam_updates(jax_optim.corrected_moments(config), 2)
    np.testing.assert_allclose(updates, 1, rtol=1e-6)


def plain(config, data, indices):
    """`gather` without its bound."""
    pixels = data.images[indices].astype(data.mean.dtype)
    return (pixels - data.mean) * data.scale, None


@pytest.mark.parametrize("right", [True, False])
def test_pixels_that_are_alike_are_so_after_a_mean_is_taken_from_them(
    make_config, worlds, right
):
    config = make_config("experiment=digits_cnn", "precision=fp32")
    rows = np.arange(256, dtype=np.uint8)
    images = np.broadcast_to(rows[:, None, None, None], (256, 8, 8, 1))
    given = images, np.zeros(256, np.int32), *pixel_affine(config)
    data = jax_step.DeviceData(*replicate(given, worlds[1]))
    gather = partial(jax_step.gather, config) if right else partial(plain, config)

    @jax.jit
    def from_their_mean(data, indices):
        pixels = gather(data, indices)[0]
        return pixels - pixels.mean(axis=(1, 2, 3), keepdims=True)

    centred = from_their_mean(
        data, replicate(np.arange(256, dtype=np.int32), worlds[1])
    )
    assert bool((centred == 0).all()) is right
