"""A model with one of each layer whose convention can be broken."""

WIDTH = 8


def weight_shapes(config):
    height, width, channels = config.data.image_shape
    features = (height // 2) * (width // 2) * WIDTH
    norm = dict.fromkeys(["scale", "bias", "mean", "var"], (WIDTH,))
    return {
        "stem.kernel": (3, 3, channels, WIDTH),
        **{f"norm.{name}": shape for name, shape in norm.items()},
        "body.kernel": (3, 3, WIDTH, WIDTH),
        "head.kernel": (features, config.data.classes),
        "head.bias": (config.data.classes,),
    }
