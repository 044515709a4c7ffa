"""What PyTorch computes and says on this machine, as JSON. Its twin: jax_probe.py.

python -m benchmarks.gpu.torch_probe products|group|hold cpu|gpu PRECISION|SECONDS
"""

import json
import os
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.cuda import nccl

from benchmarks.gpu.products import errors, operands
from benchmarks.page import typed
from recipe.errors import ConfigError
from torch_impl.precision import choose_kernels, configure, parameter_dtype


def device_of(platform: str) -> torch.device:
    return torch.device("cuda" if platform == "gpu" else "cpu")


def products(platform: str, precision: str) -> dict[str, Any]:
    """Errors of the products under the twin's flags; versions, and devices by name."""
    config = typed([f"precision={precision}", f"platform={platform}"])
    device = device_of(platform)
    choose_kernels(config)
    configure(config, device)
    as_config = {"dtype": parameter_dtype(config), "device": device}
    of = {name: torch.tensor(x, **as_config) for name, x in operands().items()}
    images = of["images"].permute(0, 3, 1, 2).requires_grad_()
    kernel = of["kernel"].permute(3, 2, 0, 1).contiguous().requires_grad_()
    output = F.conv2d(images, kernel, padding=1)
    pulled = torch.autograd.grad(
        output, (images, kernel), of["gradient"].permute(0, 3, 1, 2)
    )
    results = {
        "matmul": of["a"] @ of["b"],
        "convolution": output.permute(0, 2, 3, 1),
        "images_gradient": pulled[0].permute(0, 2, 3, 1),
        "kernel_gradient": pulled[1].permute(2, 3, 1, 0),
    }
    found = {name: x.detach().cpu().double().numpy() for name, x in results.items()}
    return {"errors": errors(found), **versions(device)}


def versions(device: torch.device) -> dict[str, Any]:
    said = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "devices": [str(device)],
    }
    if device.type == "cuda":
        count = torch.cuda.device_count()
        found = [torch.cuda.get_device_properties(n) for n in range(count)]
        said["nccl"] = ".".join(map(str, nccl.version()))
        said["devices"] = [of.name for of in found]
        said["memory_bytes"] = [of.total_memory for of in found]
        said["capability"] = [f"{of.major}.{of.minor}" for of in found]
    return said


def group(platform: str, _: str) -> dict[str, Any]:
    """The sum over a group of one process, started by torchrun."""
    device = device_of(platform)
    gpu = device.type == "cuda"
    begin = time.monotonic()
    if gpu:
        torch.cuda.set_device(0)
        dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
    else:
        dist.init_process_group("gloo")
    total = torch.arange(4.0, device=device)
    dist.all_reduce(total)
    said = {"sum": total.tolist(), "backend": dist.get_backend()}
    seconds = time.monotonic() - begin
    dist.destroy_process_group()
    return {**said, "group_seconds": seconds, "ranks": int(os.environ["WORLD_SIZE"])}


def hold(platform: str, seconds: str) -> dict[str, Any]:
    """Seconds for which the main thread waited for its busy device, once."""
    a = torch.zeros(2048, 2048, device=device_of(platform))

    def wait(count: int) -> float:
        begin = time.monotonic()
        for _ in range(count):
            torch.mm(a, a)
        if platform == "gpu":
            torch.cuda.synchronize()
        return time.monotonic() - begin

    wait(1)
    each = wait(10) / 10
    return {"held_seconds": wait(int(float(seconds) / each) + 1)}


if __name__ == "__main__":
    ask = {"products": products, "group": group, "hold": hold}[sys.argv[1]]
    try:
        print(json.dumps(ask(*sys.argv[2:])), flush=True)
    except ConfigError as error:
        print(f"error: {error}", flush=True)
        raise SystemExit(2) from None
