"""A trained model as a file that needs nothing of Duet: uint8 images in, logits out.

The model is rebuilt from its canonical weights in evaluation mode, for one device,
whatever it was trained on.

Shapes: B batch, H height, W width, C channels, K classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, export
from jaxtyping import Float, UInt8

from jax_impl.model import build_model
from jax_impl.precision import parameter_dtype
from jax_impl.step import normalise
from jax_impl.weights import load_weights
from recipe.config import Config
from recipe.pixels import pixel_affine
from recipe.weights import Weights

PLATFORMS = ("cpu", "cuda", "tpu")  # that the one file is lowered for


def image_model(
    config: Config, weights: Weights
) -> Callable[[UInt8[Array, "B H W C"]], Float[Array, "B K"]]:
    """The model in evaluation mode, normalisation of pixels included.

    Raises:
      ConfigError: if the weights are not the model's.
    """
    graphdef, *states = load_weights(build_model(config), weights)
    mean, scale = (jnp.asarray(array) for array in pixel_affine(config))
    states = jax.tree.map(jnp.asarray, states)

    def logits(images_BHWC: UInt8[Array, "B H W C"]) -> Float[Array, "B K"]:
        model = nnx.merge(graphdef, *states)
        model.eval()
        normal_BHWC = normalise(images_BHWC, mean, scale)
        return model(normal_BHWC).astype(parameter_dtype(config))

    return logits


def write_model(
    config: Config, weights: Weights, format: str, path: Path
) -> dict[str, Any]:
    """Write the model for batches of any size.

    Args:
      format: "stablehlo".

    Returns:
      How the file is called, for the manifest.
    """
    assert format == "stablehlo", format
    model = jax.jit(image_model(config, weights))
    height, width, channels = config.data.image_shape
    shape = export.symbolic_shape(f"batch, {height}, {width}, {channels}")
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    frames = jax.config.jax_traceback_in_locations_limit  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_in_locations_limit", 0)  # paths of this machine
    try:
        exported = export.export(model, platforms=PLATFORMS)(images)
    finally:
        jax.config.update("jax_traceback_in_locations_limit", frames)
    path.write_bytes(exported.serialize())
    return {
        "loader": "jax.export.deserialize",
        "calling_convention_version": exported.calling_convention_version,
        "platforms": list(exported.platforms),
    }
