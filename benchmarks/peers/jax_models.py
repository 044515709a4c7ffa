"""The five architectures in plain Flax NNX, without Duet."""

import jax
from flax import nnx

CHANNELS = (64, 128, 256, 512)
RNGS = nnx.Rngs(0)


def build(name: str, width: float) -> nnx.Module:
    """The model of this name, its channels times `width`."""
    widths = [round(width * channels) for channels in CHANNELS]
    if name in ("mlp", "cnn"):
        return {"mlp": MLP, "cnn": CNN}[name]()
    models = {"resnet9": ResNet9, "resnet18": ResNet18, "vit_tiny": ViT}
    return models[name](widths)


def halve(x: jax.Array) -> jax.Array:
    """2x2 max-pooling; `nnx.max_pool` has a gradient twenty times as slow on a CPU."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


class MLP(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(784, 64, rngs=RNGS)
        self.last = nnx.Linear(64, 10, rngs=RNGS)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x.reshape(len(x), -1))))


class CNN(nnx.Module):
    def __init__(self, pool=halve):
        self.conv1 = nnx.Conv(1, 10, (5, 5), padding="VALID", rngs=RNGS)
        self.conv2 = nnx.Conv(10, 20, (5, 5), padding="VALID", rngs=RNGS)
        self.dense1 = nnx.Linear(320, 50, rngs=RNGS)
        self.dense2 = nnx.Linear(50, 10, rngs=RNGS)
        self.pool = pool

    def __call__(self, x):
        x = nnx.relu(self.pool(self.conv1(x)))
        x = nnx.relu(self.pool(self.conv2(x)))
        return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))


class ConvNorm(nnx.Module):
    def __init__(self, before, after, kernel=3, stride=1):
        self.conv = nnx.Conv(
            *(before, after, (kernel, kernel), stride),
            padding=kernel // 2,
            use_bias=False,
            rngs=RNGS,
        )
        self.norm = nnx.BatchNorm(after, momentum=0.9, rngs=RNGS)

    def __call__(self, x):
        return self.norm(self.conv(x))


class ResNet9(nnx.Module):
    def __init__(self, widths):
        self.prep = ConvNorm(3, widths[0])
        pairs = list(zip(widths, widths[1:], strict=False))
        self.stages = nnx.List(ConvNorm(*pair) for pair in pairs)
        self.branches = nnx.List(
            nnx.List(ConvNorm(after, after) for _ in range(0 if i == 1 else 2))
            for i, (_, after) in enumerate(pairs)
        )
        self.head = nnx.Linear(widths[-1], 10, use_bias=False, rngs=RNGS)

    def __call__(self, x):
        x = nnx.relu(self.prep(x))
        for stage, branch in zip(self.stages, self.branches, strict=True):
            x = y = halve(nnx.relu(stage(x)))
            for layer in branch:
                y = nnx.relu(layer(y))
            x = x + y if len(branch) else x
        return self.head(x.max((1, 2))) / 8


class Residual(nnx.Module):
    def __init__(self, before, after, stride):
        self.first = ConvNorm(before, after, stride=stride)
        self.second = ConvNorm(after, after)
        same = before == after
        self.around = None if same else ConvNorm(before, after, 1, stride)

    def __call__(self, x):
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.around is None else self.around(x)))


class ResNet18(nnx.Module):
    def __init__(self, widths):
        self.stem = ConvNorm(3, widths[0])
        blocks, before = [], widths[0]
        for i, after in enumerate(widths):
            blocks.append(Residual(before, after, 2 if i else 1))
            blocks.append(Residual(after, after, 1))
            before = after
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(widths[-1], 10, rngs=RNGS)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Attention(nnx.Module):
    def __init__(self, features, heads):
        self.heads = heads
        self.query = nnx.Linear(features, features, rngs=RNGS)
        self.key = nnx.Linear(features, features, use_bias=False, rngs=RNGS)
        self.value = nnx.Linear(features, features, rngs=RNGS)
        self.out = nnx.Linear(features, features, rngs=RNGS)

    def __call__(self, x):
        query, key, value = (
            layer(x).reshape(*x.shape[:2], self.heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        return self.out(
            jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        )


class Block(nnx.Module):
    def __init__(self, features, heads):
        self.norm1 = nnx.LayerNorm(features, rngs=RNGS)
        self.attention = Attention(features, heads)
        self.norm2 = nnx.LayerNorm(features, rngs=RNGS)
        self.wide = nnx.Linear(features, 4 * features, rngs=RNGS)
        self.narrow = nnx.Linear(4 * features, features, rngs=RNGS)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(nnx.gelu(self.wide(self.norm2(x)), approximate=False))


class ViT(nnx.Module):
    def __init__(self, widths, heads=3, blocks=12):
        features = heads * widths[0]
        self.patches = nnx.Conv(3, features, (4, 4), 4, padding="VALID", rngs=RNGS)
        self.position = nnx.Param(0.02 * jax.random.normal(RNGS(), (64, features)))
        self.blocks = nnx.List(Block(features, heads) for _ in range(blocks))
        self.norm = nnx.LayerNorm(features, rngs=RNGS)
        self.head = nnx.Linear(features, 10, rngs=RNGS)

    def __call__(self, x):
        tokens = self.patches(x)
        x = tokens.reshape(len(x), 64, -1) + self.position[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))
