"""The planted model with attention over pixels, whose softmax takes key.bias out."""

from tests.twins.planted import shapes


def weight_shapes(config):
    found = shapes.weight_shapes(config)
    width = found["stem.kernel"][-1]
    for name in ("query", "key", "value"):
        found |= {f"{name}.kernel": (width, width), f"{name}.bias": (width,)}
    return found
