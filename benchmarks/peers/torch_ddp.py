"""The bare loop in PyTorch under DistributedDataParallel, a core for each rank.

torchrun --nproc-per-node=2 benchmarks/peers/torch_ddp.py cnn
"""

import gc
import os

from timed import IMAGES, arguments, keep_to_cores, report_in_step

RANK, RANKS = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
keep_to_cores(RANK, 1)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch_bare import program  # noqa: E402
from torch_models import build  # noqa: E402


def main() -> None:
    asked = arguments(__doc__)
    dist.init_process_group("gloo")
    model = DistributedDataParallel(build(asked.model, asked.width))
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    step, losses = program(model, asked.model, order[RANK::RANKS], asked.batch)

    def wait() -> None:
        dist.all_reduce(torch.stack(losses))
        losses.clear()

    report_in_step(step, wait, asked.batch, tells=RANK == 0)


if __name__ == "__main__":
    main()
    gc.collect()  # the model, whose cycle holds gloo's threads (pytorch#190489)
    dist.barrier()
    dist.destroy_process_group()
