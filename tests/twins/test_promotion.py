"""Twins of JAX write each cast and each axis; a user's own model need not."""

import jax.numpy as jnp
import pytest
from jax.dtypes import TypePromotionError


def cast() -> None:
    jnp.ones(3, jnp.bfloat16) * jnp.ones(3, jnp.float32)


def axis() -> None:
    jnp.ones((2, 3)) + jnp.ones(3)


@pytest.mark.parametrize("left_to_jax", [cast, axis])
def test_a_cast_or_an_axis_that_is_not_written_is_refused(left_to_jax):
    with pytest.raises((TypePromotionError, ValueError), match="promotion"):
        left_to_jax()


@pytest.mark.parametrize("left_to_jax", [cast, axis])
def test_in_a_users_own_model_jax_promotes_as_in_a_run(left_to_jax, promotion):
    left_to_jax()
