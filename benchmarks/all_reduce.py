"""Time all-reduces of several sizes between the devices of this machine, or of several.

    torchrun --standalone --nproc-per-node=2 benchmarks/all_reduce.py all_reduce.json
    python launch/report.py runs/study-demo --interconnect all_reduce.json

NCCL between GPUs, gloo between CPUs, by torch.distributed. The file has, for each size,
the median over repeats of the slowest rank's seconds.
"""

import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

SIZES = [2**power for power in range(10, 26, 3)]  # bytes: 1 KiB to 32 MiB
WARM_UP, REPEATS = 3, 20


def seconds_of(nbytes: int, device: torch.device) -> float:
    """The median time of an all-reduce, on its slowest rank."""
    tensor = torch.ones(nbytes // 4, device=device)
    times = []
    for repeat in range(WARM_UP + REPEATS):
        dist.barrier()
        begin = time.perf_counter()
        dist.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        slowest = torch.tensor(time.perf_counter() - begin, device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        if repeat >= WARM_UP:
            times.append(slowest.item())
        tensor.fill_(1)
    return statistics.median(times)


def main() -> None:
    file = Path(sys.argv[1])
    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    device = (
        torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if gpu
        else torch.device("cpu")
    )
    if gpu:
        torch.cuda.set_device(device)
    seconds = [seconds_of(nbytes, device) for nbytes in SIZES]
    if dist.get_rank() == 0:
        backend, count = dist.get_backend(), dist.get_world_size()
        chip = torch.cuda.get_device_name() if gpu else "processes on CPUs"
        held = {
            "name": f"{backend} between {count} {chip}",
            "source": f"by torch {torch.__version__}'s {backend} on {platform.node()}",
            "devices": count,
            "nbytes": SIZES,
            "seconds": seconds,
        }
        file.write_text(json.dumps(held, indent=1) + "\n")
        for nbytes, taken in zip(SIZES, seconds, strict=True):
            print(f"{nbytes:>10,} bytes  {1e6 * taken:10.0f} us")
    dist.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: torchrun ... benchmarks/all_reduce.py FILE")
    main()
