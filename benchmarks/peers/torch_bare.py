"""A bare loop in PyTorch, its data in memory: what the framework does by itself.

python benchmarks/peers/torch_bare.py resnet9 --batch 64 --width 0.25
"""

import torch
import torch.nn.functional as F
from timed import arguments, pixels, report
from torch_models import build


def main() -> None:
    asked = arguments(__doc__)
    images, labels = map(torch.from_numpy, pixels(asked.cell))
    model = build(asked.cell, asked.width)
    optimizer = torch.optim.SGD(
        *(model.parameters(), 1e-3, 0.9), weight_decay=5e-4, nesterov=True
    )
    order, losses = torch.randperm(len(images)), []

    def step(i: int) -> None:
        start = i * asked.batch % (len(images) - asked.batch)
        rows = order[start : start + asked.batch]
        x = (images[rows].float() / 255 - 0.5) / 0.3
        loss = F.cross_entropy(model(x.permute(0, 3, 1, 2)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    def wait() -> None:
        torch.stack(losses).tolist()
        losses.clear()

    report(step, wait, asked)


if __name__ == "__main__":
    main()
