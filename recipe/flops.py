"""FLOPs per example, counted from the architecture, so the same for both frameworks.

A multiply-add is two operations. Counted are convolutions and matrix products, as
torch's `FlopCounterMode` does, padding's zeros included; elementwise operations (norms,
activations, the update) are not, as they are bound by memory.

XLA's `cost_analysis()` differs in two ways: it skips multiplications by padding (a 3x3
convolution of 4x4 pixels covers 100 pixels in 144 positions), and it adds elementwise
operations: 1 % for a ResNet-18, and 8 % for a ViT, whose exact GELU is a polynomial of
some ninety operations.
"""

from recipe.architecture import layers
from recipe.config import Config


def training_flops(config: Config) -> int:
    """Of one example's forward and backward pass.

    The backward pass takes two products of the same size: one for the gradient of the
    kernel, one for that of the input, which the first layer does not need.
    """
    counts = [layer.multiply_adds for layer in layers(config.model, config.data)]
    first, *rest = filter(None, counts)
    return 2 * (2 * first + 3 * sum(rest))
