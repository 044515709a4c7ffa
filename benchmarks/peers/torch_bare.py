"""A bare loop in PyTorch, its data in memory: what the framework does by itself.

python benchmarks/peers/torch_bare.py resnet9 --batch 64 --width 0.25
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timed import IMAGES, arguments, pixels, report
from torch import Tensor, nn
from torch_models import build


def program(
    model: nn.Module, cell: str, order: Tensor, batch: int
) -> tuple[Callable[[int], None], list[Tensor]]:
    """A step by its number, over images in this order; the losses that it adds to."""
    images, labels = map(torch.from_numpy, pixels(cell))
    optimizer = torch.optim.SGD(
        *(model.parameters(), 1e-3, 0.9), weight_decay=5e-4, nesterov=True
    )
    losses = []

    def step(i: int) -> None:
        start = i * batch % (len(order) - batch)
        rows = order[start : start + batch]
        x = (images[rows].float() / 255 - 0.5) / 0.3
        loss = F.cross_entropy(model(x.permute(0, 3, 1, 2)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    return step, losses


def main() -> None:
    asked = arguments(__doc__)
    model, order = build(asked.cell, asked.width), torch.randperm(IMAGES)
    step, losses = program(model, asked.cell, order, asked.batch)

    def wait() -> None:
        torch.stack(losses).tolist()
        losses.clear()

    report(step, wait, asked)


if __name__ == "__main__":
    main()
