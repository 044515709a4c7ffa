"""A bare loop in PyTorch with data in memory: the framework's own speed.

python benchmarks/peers/torch_bare.py resnet9 --batch 64 --width 0.25
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timed import IMAGES, arguments, pixels, report
from torch import Tensor, nn
from torch_models import build


def program(
    model: nn.Module, name: str, order: Tensor, batch: int
) -> tuple[Callable[[int], None], list[Tensor]]:
    """The step, by number, over images in this order; and the list of its losses."""
    images, labels = map(torch.from_numpy, pixels(name))
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
    model, order = build(asked.model, asked.width), torch.randperm(IMAGES)
    step, losses = program(model, asked.model, order, asked.batch)

    def wait() -> None:
        torch.stack(losses).tolist()
        losses.clear()

    report(step, wait, asked)


if __name__ == "__main__":
    main()
