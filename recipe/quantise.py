"""int8 weights and activations, by scales that NumPy computes once for both twins.

Symmetric: an integer q stands for q times its scale, and zero for zero. Weights have a
scale for each output channel, activations one for each layer's input. Products of int8
are summed in int32, which is exact, so that both twins get the same sums bit for bit;
fp32 only enters when a sum is multiplied by its scale.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference, CVPR 2018; symmetric as Wu et al., Integer
Quantization for Deep Learning Inference, 2020.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int8, Int32

from recipe.weights import Weights

LARGEST = 127  # not -128 either, so that the range is symmetric
LARGEST_BIAS = 2**30  # of int32: half is for the products, half for the bias
MOST_PRODUCTS = 2**30 // LARGEST**2 - 1  # of one sum


@dataclass(frozen=True)
class Int8Layer:
    """A convolution or dense layer in int8, in canonical layout.

    Args:
      kernel: as integers.
      bias: as integers of the sums' scale; None without one.
      input_scale: of the layer's input.
      scale: of each output channel's sums: the input's times the kernel's.
    """

    kernel: Int8[np.ndarray, "... out"]
    bias: Int32[np.ndarray, " out"] | None
    input_scale: np.float32
    scale: Float[np.ndarray, " out"]


def kernel_scales(kernel: Float[np.ndarray, "... out"]) -> Float[np.ndarray, " out"]:
    """The scale of each output channel: its largest weight becomes 127.

    A channel of zeros has scale 1.

    >>> kernel_scales(np.array([[1.27, 0.0], [-2.54, 0.0]])).round(6)
    array([0.02, 1.  ])
    """
    largest = np.abs(kernel.astype(np.float64)).reshape(-1, kernel.shape[-1]).max(0)
    return np.where(largest > 0, largest / LARGEST, 1.0)


def to_int8(array: np.ndarray, scale: np.ndarray | float) -> Int[np.ndarray, "..."]:
    """The nearest integers, of two equally near the even one, within ±127.

    >>> to_int8(np.array([0.25, -0.75, 100.0]), 0.5)
    array([  0,  -2, 127], dtype=int8)
    """
    rounded = np.rint(array.astype(np.float64) / scale)
    return np.clip(rounded, -LARGEST, LARGEST).astype(np.int8)


def quantise(weights: Weights, largest: Mapping[str, float]) -> dict[str, Int8Layer]:
    """The layers in int8.

    Args:
      weights: canonical.
      largest: layer -> largest magnitude of its input on training images; layers that
        are not listed stay as they are.

    Raises:
      ValueError: if a sum may exceed int32, or an input's magnitude is not positive.
    """
    layers = {}
    for name, magnitude in largest.items():
        kernel, bias = weights[f"{name}.kernel"], weights.get(f"{name}.bias")
        products = kernel[..., 0].size
        if products > MOST_PRODUCTS:
            raise ValueError(
                f"{name} sums {products} products; int32 holds the sum of "
                f"{MOST_PRODUCTS}"
            )
        if not 0 < magnitude < np.inf:
            raise ValueError(
                f"{name}: the largest magnitude of its input is {magnitude}"
            )
        input_scale = np.float32(magnitude / LARGEST)
        of_kernel = kernel_scales(kernel)
        if bias is not None:  # that fits, beside tiny weights or none as well
            least = np.abs(bias.astype(np.float64)) / LARGEST_BIAS / float(input_scale)
            unused = ~kernel.reshape(-1, kernel.shape[-1]).any(0) & (least > 0)
            of_kernel = np.where(unused, least, np.maximum(of_kernel, least))
        scale = float(input_scale) * of_kernel
        layers[name] = Int8Layer(
            to_int8(kernel, of_kernel),
            None if bias is None else np.rint(bias / scale).astype(np.int32),
            input_scale,
            scale.astype(np.float32),
        )
    return layers
