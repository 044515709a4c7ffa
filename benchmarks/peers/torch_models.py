"""The five architectures in plain PyTorch, without Duet."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (64, 128, 256, 512)


def build(name: str, width: float) -> nn.Module:
    """The model of this name, its channels times `width`."""
    widths = [round(width * channels) for channels in CHANNELS]
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    if name == "cnn":
        return nn.Sequential(
            *(nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Linear(50, 10)),
        )
    models = {"resnet9": ResNet9, "resnet18": ResNet18, "vit_tiny": ViT}
    return models[name](widths)


def conv_norm(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


class Add(nn.Module):
    """The sum of a branch and its input."""

    def __init__(self, branch: nn.Module, around: nn.Module | None = None):
        super().__init__()
        self.branch, self.around = branch, around or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.around(x)


class ResNet9(nn.Module):
    def __init__(self, widths: list[int]):
        super().__init__()
        prep, *stages = widths
        layers = [conv_norm(3, prep), nn.ReLU()]
        for i, (before, after) in enumerate(zip(widths, stages, strict=False)):
            layers += [conv_norm(before, after), nn.ReLU(), nn.MaxPool2d(2)]
            if i != 1:
                first, second = (conv_norm(after, after) for _ in range(2))
                branch = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
                layers.append(Add(branch))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).amax((2, 3))) / 8


class ResNet18(nn.Module):
    def __init__(self, widths: list[int]):
        super().__init__()
        layers, before = [conv_norm(3, widths[0]), nn.ReLU()], widths[0]
        for i, after in enumerate(widths):
            for j in range(2):
                stride = 2 if i and not j else 1
                branch = nn.Sequential(
                    conv_norm(before, after, stride=stride),
                    nn.ReLU(),
                    conv_norm(after, after),
                )
                same = before == after
                around = None if same else conv_norm(before, after, 1, stride)
                layers += [Add(branch, around), nn.ReLU()]
                before = after
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features, bias=False)
        self.value = nn.Linear(features, features)
        self.out = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class ViT(nn.Module):
    def __init__(self, widths: list[int], heads: int = 3, blocks: int = 12):
        super().__init__()
        features = heads * widths[0]
        self.patches = nn.Conv2d(3, features, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(64, features))
        layers = []
        for _ in range(blocks):
            attention = Attention(features, heads)
            layers.append(Add(nn.Sequential(nn.LayerNorm(features), attention)))
            mlp = [nn.Linear(features, 4 * features), nn.GELU()]
            mlp.append(nn.Linear(4 * features, features))
            layers.append(Add(nn.Sequential(nn.LayerNorm(features), *mlp)))
        self.body = nn.Sequential(*layers, nn.LayerNorm(features))
        self.head = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.body(tokens).mean(1))
