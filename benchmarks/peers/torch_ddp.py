"""The bare loop in PyTorch under DistributedDataParallel, a core for each rank.

torchrun --nproc-per-node=2 benchmarks/peers/torch_ddp.py cnn
"""

import gc
import os

from timed import arguments, keep_to_cores, pixels, report_in_step

RANK, RANKS = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
keep_to_cores(RANK, 1)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch_models import build  # noqa: E402


def main() -> None:
    asked = arguments(__doc__)
    dist.init_process_group("gloo")
    images, labels = map(torch.from_numpy, pixels(asked.cell))
    model = build(asked.cell, asked.width)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(
        *(model.parameters(), 1e-3, 0.9), weight_decay=5e-4, nesterov=True
    )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    order, losses = order[RANK::RANKS], []

    def step(i: int) -> None:
        start = i * asked.batch % (len(order) - asked.batch)
        rows = order[start : start + asked.batch]
        x = (images[rows].float() / 255 - 0.5) / 0.3
        loss = F.cross_entropy(parallel(x.permute(0, 3, 1, 2)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    def wait() -> None:
        dist.all_reduce(torch.stack(losses))
        losses.clear()

    report_in_step(step, wait, asked.batch, tells=RANK == 0)


if __name__ == "__main__":
    main()
    gc.collect()  # the model, whose cycle holds gloo's threads (pytorch#190489)
    dist.barrier()
    dist.destroy_process_group()
