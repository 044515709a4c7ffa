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
from recipe.prefixes import is_frozen


def training_flops(config: Config) -> int:
    """Of one example's forward and backward pass.

    The backward pass takes two products of the same size: one for the gradient of the
    kernel, which a frozen layer does not need, one for that of the input, which no
    layer needs that has no trained one before it.
    """
    total, needed = 0, False
    for layer in layers(config.model, config.data):
        trains = bool(layer.leaves) and not is_frozen(config, layer.name)
        own = trains if layer.leaves else needed  # a product's factors are both inputs
        total += (1 + own + needed) * layer.multiply_adds
        needed = needed or trains
    return 2 * total
