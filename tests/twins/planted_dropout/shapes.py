"""Dropout wherever a user may put it: of images, in lists, called twice, shared."""

WIDTH = 8


def weight_shapes(config):
    channels = config.data.image_shape[2]
    leaves = {"stem.kernel": (3, 3, channels, WIDTH), "stem.bias": (WIDTH,)}
    for i in range(2):
        leaves[f"block.{i}.dense.kernel"] = (WIDTH, WIDTH)
        leaves[f"block.{i}.dense.bias"] = (WIDTH,)
    leaves["head.1.kernel"] = (WIDTH, config.data.classes)
    return leaves | {"head.1.bias": (config.data.classes,)}


def dropout_rates(config):
    return {
        "pixels": 0.2,
        "block.0.shares": 0.1,
        "block.0.tokens": 0.3,
        "block.1.shares": 0.1,
        "block.1.tokens": 0.3,
        "after": 0.5,
        "none": 0.0,
        "head.0": 0.4,
    }
