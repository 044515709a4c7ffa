"""The planted model with a bias that its norm takes out again: before the norm."""

from tests.twins.planted import shapes


def weight_shapes(config):
    found = shapes.weight_shapes(config)
    return {**found, "stem.bias": found["stem.kernel"][-1:]}
