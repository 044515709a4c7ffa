"""Measure the best FLOP/s of one device: what `--peak-flops` may be.

    OMP_NUM_THREADS=1 python benchmarks/matmul.py
    python launch/report.py runs/study-demo --peak-flops 4.5e10

For devices without a known data sheet, such as CPUs: use the cores that a device of the
study has. In each precision takes the best of matrix products of several sizes and a
large convolution, by torch: on AMD's processors MKL's products are slower than oneDNN's
convolutions.
"""

import time
from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F

SIZES = [2**power for power in range(9, 14)]  # of square matrices
SECONDS = 0.2  # that one product may take: on a slow device larger ones are skipped
REPEATS = 5
DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few calls."""
    times = []
    for _ in range(1 + REPEATS):  # the first one chooses kernels
        begin = time.perf_counter()
        call()
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
            a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in "ab")
            seconds = seconds_of(lambda a=a, b=b: torch.matmul(a, b), device)
            best[name] = max(best[name], 2 * size**3 / seconds)
            slow |= {name} if 8 * seconds > SECONDS else set()
    batch, channels, side = 16, 256, 16
    for name, dtype in DTYPES.items():
        x = torch.ones(batch, channels, side, side, dtype=dtype, device=device)
        kernel = torch.ones(channels, channels, 3, 3, dtype=dtype, device=device)
        seconds = seconds_of(lambda x=x, k=kernel: F.conv2d(x, k, padding=1), device)
        # Multiplications by padding do not count.
        products = 9 * channels**2 * batch * (side - 2 / 3) ** 2
        best[name] = max(best[name], 2 * products / seconds)
    for name, flops in best.items():
        print(f"{name}: --peak-flops {flops:.3g} on {where}")


if __name__ == "__main__":
    main()
