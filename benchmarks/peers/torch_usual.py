"""The usual PyTorch script: a DataLoader that converts images one by one to tensors.

python benchmarks/peers/torch_usual.py cnn --batch 128
"""

import itertools

import torch
import torch.nn.functional as F
from PIL import Image
from timed import arguments, pixels, report
from torch.utils.data import DataLoader, Dataset
from torch_models import build
from torchvision import transforms


class Images(Dataset):
    """As in torchvision's MNIST: an image for the transform, and its label."""

    def __init__(self, name: str):
        self.images, self.labels = pixels(name)
        normal = transforms.Normalize((0.5,), (0.3,))
        self.transform = transforms.Compose([transforms.ToTensor(), normal])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        image = Image.fromarray(self.images[index, :, :, 0])
        return self.transform(image), int(self.labels[index])


def main() -> None:
    asked = arguments(__doc__)
    loader = DataLoader(Images(asked.model), asked.batch, shuffle=True, drop_last=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    model = build(asked.model, asked.width)
    optimizer = torch.optim.SGD(
        *(model.parameters(), 1e-3, 0.9), weight_decay=5e-4, nesterov=True
    )

    def step(_: int) -> None:
        x, labels = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    report(step, lambda: None, asked)


if __name__ == "__main__":
    main()
