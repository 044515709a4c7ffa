"""The initial weights: (seed, architecture) -> named NumPy arrays in canonical layout.

Canonical names are module paths joined by dots (`dense.0.kernel`); canonical layouts
are HWIO for convolution kernels and (in, out) for dense ones. Each framework's
`weights.py` maps them to its own; every transpose is there and nowhere else.
"""

import math

import numpy as np

from recipe.config import Config
from recipe.own_model import own_module
from recipe.rng import keyed_generator

Weights = dict[str, np.ndarray]

CNN_KERNEL = 5  # height and width of the CNN's convolutions, without padding


def outputs(config: Config) -> int:
    """Width of the last layer: one logit per class, or the predicted value."""
    return config.data.classes or 1


def cnn_features(config: Config) -> int:
    """Features that the CNN flattens: two rounds of convolution and 2x2 pooling."""
    height, width, _ = config.data.image_shape
    for _ in config.model.channels:
        height, width = (height - CNN_KERNEL + 1) // 2, (width - CNN_KERNEL + 1) // 2
    return height * width * config.model.channels[-1]


def dense_widths(config: Config) -> list[int]:
    """Widths from the first dense layer's input to the last one's output."""
    if config.model.name == "cnn":
        features = cnn_features(config)
    else:
        features = math.prod(config.data.image_shape)
    return [features, *config.model.hidden, outputs(config)]


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of all that a model holds, in forward order."""
    if config.model.folder is not None:
        return own_module(config.model.folder, "shapes.py").weight_shapes(config)
    shapes: dict[str, tuple[int, ...]] = {}
    channels = [config.data.image_shape[2], *config.model.channels]
    for i, (before, after) in enumerate(zip(channels, channels[1:], strict=False)):
        shapes[f"conv.{i}.kernel"] = (CNN_KERNEL, CNN_KERNEL, before, after)
        shapes[f"conv.{i}.bias"] = (after,)
    widths = dense_widths(config)
    for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
        shapes[f"dense.{i}.kernel"] = (before, after)
        shapes[f"dense.{i}.bias"] = (after,)
    return shapes


def initial_weights(config: Config) -> Weights:
    """Every parameter at step 0, He-normal kernels and zero biases.

    Kernels are N(0, 2 / fan_in), fan_in = all axes but the last. Each is drawn in
    float64 from its own generator, keyed by (seed, name), so that adding a layer moves
    no other; fp32 rounds what fp64 uses. `train.nudge` then moves every number one unit
    in the last place.

    Source: He et al., Delving Deep into Rectifiers, ICCV 2015.
    """
    dtype = np.float64 if config.precision.name == "fp64" else np.float32
    weights: Weights = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith(".kernel"):
            generator = keyed_generator(config.train.seed, "weights", name)
            std = math.sqrt(2 / math.prod(shape[:-1]))
            weights[name] = (std * generator.standard_normal(shape)).astype(dtype)
        else:
            ones = name.endswith((".scale", ".var"))
            weights[name] = np.full(shape, 1 if ones else 0, dtype)
        if config.train.nudge and is_trained(name):
            weights[name] = _nudged(weights[name], config.train.nudge, name)
    return weights


def is_trained(name: str) -> bool:
    """Whether a canonical name is a parameter's; else it is a running statistic's."""
    return not name.endswith((".mean", ".var"))


def parameter_count(weights: Weights) -> int:
    """How many numbers training moves."""
    return sum(array.size for name, array in weights.items() if is_trained(name))


def _nudged(array: np.ndarray, seed: int, name: str) -> np.ndarray:
    """Each number one unit in the last place up or down; zeros stay zero."""
    up = keyed_generator(seed, "nudge", name).integers(2, size=array.shape) == 1
    toward = np.where(up, np.inf, -np.inf).astype(array.dtype)
    # The float next to zero is subnormal; flushed in one framework, it is not a nudge.
    return np.where(array == 0, array, np.nextafter(array, toward))


def decays(config: Config, name: str) -> bool:
    """Whether weight decay applies to a parameter: the one rule, `optim.decay`."""
    return config.optim.decay == "all" or name.endswith(".kernel")
