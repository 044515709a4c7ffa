"""FLOPs per example, counted from the architecture: one figure for both frameworks.

A multiply-add is two operations. Counted are convolutions and matrix products, as
torch's `FlopCounterMode` does, padding's zeros included; what is elementwise (norms,
activations, the update) is not, and takes memory's time rather than arithmetic's.

XLA's own `cost_analysis()` differs in two ways: it leaves out multiplications by
padding (a 3x3 convolution of 4x4 pixels meets 100 pixels in 144 places), and it adds
elementwise operations: 1 % for a ResNet-18, and 8 % for a ViT, whose exact GELU is a
polynomial of some ninety operations.
"""

from recipe.architecture import layers
from recipe.config import Config


def training_flops(config: Config) -> int:
    """Of one example's forward and backward pass.

    Backward takes two products as large as forward's: one for the gradient of the
    layer's kernel, one for that of its input, which the first layer's images need not.
    """
    counts = [layer.multiply_adds for layer in layers(config.model, config.data)]
    first, *rest = filter(None, counts)
    return 2 * (2 * first + 3 * sum(rest))
