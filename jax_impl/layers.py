"""Layers whose convention has to be written out.

Shapes: B batch, C channels, H height, W width, F features.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def max_pool(x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """The maximum of 2x2 pixels, stride 2; the first of equals has the gradient.

    Written as three comparisons of strided slices: on a CPU the gradient of
    `reduce_window` takes twenty times as long (117 ms against 6), and `jnp.maximum`
    would split the gradient of equal pixels, of which a blank background is full.
    """
    _, height, width, _ = x_BHWC.shape
    x_BHWC = x_BHWC[:, : height // 2 * 2, : width // 2 * 2]
    first = x_BHWC[:, ::2, ::2]
    rest = x_BHWC[:, ::2, 1::2], x_BHWC[:, 1::2, ::2], x_BHWC[:, 1::2, 1::2]
    for other in rest:
        first = jnp.where((first >= other) | jnp.isnan(first), first, other)
    return first


def flatten(x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
    """Features in the order of height, width, channel."""
    return x_BHWC.reshape(x_BHWC.shape[0], -1)
