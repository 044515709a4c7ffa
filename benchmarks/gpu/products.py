"""A matrix product and a convolution, with the convolution's gradients, in fp64.

What a device computes of them is compared with that. TF32 keeps 10 bits of each factor,
fp32 23: over a thousand products the errors are some 3e-4 and 1e-6, so a bound between
them tells which was used, Winograd's fp32 convolutions included.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

TF32_BOUND = 5e-5  # relative errors of fp32 are below, of TF32 above
LARGEST = {"fp64": 1e-12, "fp32": TF32_BOUND, "tf32": 5e-3}
ALWAYS_TF32 = ("matmul", "convolution")  # cuDNN may take another kernel for gradients
SIDE, BATCH, PIXELS, CHANNELS = 1024, 8, 16, 64

Arrays = dict[str, Float[np.ndarray, "..."]]


def operands() -> Arrays:
    """Factors a and b; images (NHWC), a 3×3 kernel (HWIO) and a gradient (NHWC)."""
    shapes = {
        "a": (SIDE, SIDE),
        "b": (SIDE, SIDE),
        "images": (BATCH, PIXELS, PIXELS, CHANNELS),
        "kernel": (3, 3, CHANNELS, CHANNELS),
        "gradient": (BATCH, PIXELS, PIXELS, CHANNELS),
    }
    generator = np.random.default_rng(0)
    # Numbers that fp32 holds, so that no error is of the operands.
    drawn = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    return {name: x.astype(np.float32).astype(np.float64) for name, x in drawn.items()}


def expected() -> Arrays:
    """The results in fp64."""
    of = operands()
    flipped = of["kernel"][::-1, ::-1].swapaxes(2, 3)
    return {
        "matmul": of["a"] @ of["b"],
        "convolution": _convolution(of["images"], of["kernel"]),
        "images_gradient": _convolution(of["gradient"], flipped),
        "kernel_gradient": np.einsum(
            "bhwcij,bhwo->ijco", _windows(of["images"]), of["gradient"], optimize=True
        ),
    }


def _windows(images: np.ndarray) -> np.ndarray:
    """The 3×3 pixels around each, shape (B, H, W, C, 3, 3)."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))


def _convolution(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.einsum("bhwcij,ijco->bhwo", _windows(images), kernel, optimize=True)


def errors(found: Arrays) -> dict[str, float]:
    """2-norm of each result's difference, relative to that of the result in fp64."""
    return {
        name: float(np.linalg.norm(found[name] - right) / np.linalg.norm(right))
        for name, right in expected().items()
    }


def wrong(precision: str, errors: dict[str, Any]) -> list[str]:
    """What the errors contradict of a precision: too large, or too small for TF32."""
    most = LARGEST[precision]
    found = [
        f"{name}: {error:.1e} is above {most:g}"
        for name, error in errors.items()
        if not error <= most
    ]
    if precision == "tf32":
        found += [
            f"{name}: {errors[name]:.1e} is below {TF32_BOUND:g}, so TF32 is off"
            for name in ALWAYS_TF32
            if errors[name] < TF32_BOUND
        ]
    return found
