"""Measure the FLOP/s of matrix products on one device: what `--peak-flops` may be.

    OMP_NUM_THREADS=1 python benchmarks/matmul.py
    python launch/report.py runs/study-demo --peak-flops 4.5e10

For a device whose data sheet the report does not know, such as a CPU: give it the cores
that a device of the study has. The best of several sizes, by torch, in each precision.
"""

import time
from itertools import product

import torch

SIZES = [2**power for power in range(9, 14)]  # of square matrices
SECONDS = 0.2  # that one product may take: on a slow device the larger are left out
REPEATS = 5
DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def seconds_of(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """The quickest of a few products of two square matrices."""
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in "ab")
    times = []
    for _ in range(1 + REPEATS):  # the first chooses kernels
        begin = time.perf_counter()
        torch.matmul(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def main() -> None:
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    where = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} cores"
    best = dict.fromkeys(DTYPES, 0.0)
    slow = set()
    for size, (name, dtype) in product(SIZES, DTYPES.items()):
        if name not in slow:
            seconds = seconds_of(size, dtype, device)
            best[name] = max(best[name], 2 * size**3 / seconds)
            slow |= {name} if 8 * seconds > SECONDS else set()
    for name, flops in best.items():
        print(f"{name}: --peak-flops {flops:.3g} on {where}")


if __name__ == "__main__":
    main()
