"""What a training step exchanges on more devices than there are, counted and not run.

    python tests/twins/wiring.py 256

JAX's step is compiled for so many CPU devices, and its collectives read from the module
that XLA made. PyTorch is rank 0 of a process group that is a fake: what FSDP hands to
it is noted on its way; DDP's own all-reduce fails an internal assertion there on a CPU,
so a hook takes its place and notes each bucket. Prints JSON, a list of
[collective, bytes] for each, the bytes those of one device's results.
"""

import json
import re
import sys
from math import prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from jax_impl import parallel as jax_parallel  # noqa: E402
from recipe.config import Config  # noqa: E402
from recipe.execution import Strategy  # noqa: E402
from recipe.weights import parameter_count  # noqa: E402
from tests.twins.steps import (  # noqa: E402
    config_of,
    jax_call,
    random_arrays,
    random_weights,
)
from torch_impl import model as torch_model  # noqa: E402
from torch_impl import parallel as torch_parallel  # noqa: E402
from torch_impl import weights as torch_weights  # noqa: E402

BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}
ALONE = torch_parallel.World(0, 1, 1, torch.device("cpu"))
Collectives = list[tuple[str, int]]


def in_jax(config: Config, devices: int) -> Collectives:
    """Of the compiled step: what each collective gives back, in bytes of one device."""
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (jax_parallel.AXIS,))
    strategy = Strategy(config.parallel.name)
    world = jax_parallel.World(0, 1, devices, mesh, strategy)
    weights = {k: v.astype(np.float32) for k, v in random_weights(config).items()}
    arrays = random_arrays(config)
    batch = np.zeros((1, config.train.global_batch_size), np.int32)
    step, state, (others,) = jax_call(config, weights, arrays, batch, 0.1, world)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state), world.replicated
    jitted = jax.jit(step, donate_argnums=0, out_shardings=shardings)
    return collectives(jitted.lower(state, *others).compile().as_text())


def collectives(module: str) -> Collectives:
    """Every collective of a compiled module, and the bytes of its results.

    >>> collectives("x = (f32[8,2]{1,0}, f32[]) all-reduce(a, b), replica_groups=...")
    [('all-reduce', 68)]
    """
    names = "all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute"
    found = re.findall(rf"= (.*?) ({names})(?:-start)?\(", module)
    return [(name, _bytes(shapes)) for shapes, name in found]


def _bytes(shapes: str) -> int:
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes)
    return sum(BYTES[t] * prod(map(int, filter(None, s.split(",")))) for t, s in arrays)


def in_ddp(config: Config, ranks: int) -> Collectives:
    """The buckets that DDP hands to the exchange in a step after its first."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    buckets: Collectives = []

    def exchange(
        state: Any, bucket: dist.GradBucket
    ) -> torch.futures.Future[torch.Tensor]:
        """In place of the all-reduce of a bucket."""
        buckets.append(("all-reduce", bucket.buffer().nbytes))
        done: Any = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    world = torch_parallel.World(0, ranks, ranks, torch.device("cpu"))
    model = torch_parallel.parallelize(built(config), world)
    assert isinstance(model, DistributedDataParallel)
    model.register_comm_hook(None, exchange)
    for _ in range(2):  # after the first they are ordered as gradients came
        buckets.clear()
        backward(config, model)
    dist.destroy_process_group()
    return buckets


class Noting(TorchDispatchMode):
    """Notes what is handed to the process group."""

    NAMES = {
        "c10d::_allgather_base_": "all-gather",
        "c10d::_reduce_scatter_base_": "reduce-scatter",
        "c10d::allreduce_": "all-reduce",
    }

    def __init__(self, seen: Collectives):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args=(), kwargs=None) -> Any:
        if (name := func._schema.name).startswith("c10d::"):
            self.seen.append((self.NAMES.get(name, name), args[0].nbytes))
        return func(*args, **(kwargs or {}))


def in_fsdp(config: Config, ranks: int) -> Collectives:
    """What FSDP gathers and scatters in a step."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    device = torch.device("cpu")
    world = torch_parallel.World(0, ranks, ranks, device, Strategy.FSDP)
    model = torch_parallel.parallelize(built(config), world)
    seen: Collectives = []
    with Noting(seen):
        backward(config, model)
    dist.destroy_process_group()
    return seen


def built(config: Config) -> nn.Module:
    """The model, whole in this process."""
    model = torch_model.build_model(config)
    weights = {k: v.astype(np.float32) for k, v in random_weights(config).items()}
    torch_weights.load_weights(model, weights, ALONE)
    return model


def padded_bytes(config: Config, ranks: int) -> int:
    """Of all parameters, as FSDP pads the first axis of each to divide over ranks."""
    shapes = [parameter.shape for parameter in built(config).parameters()]
    return 4 * sum(-(-first // ranks) * ranks * prod(rest) for first, *rest in shapes)


def backward(config: Config, model: nn.Module) -> None:
    height, width, channels = config.data.image_shape
    images = torch.zeros(2, channels, height, width)
    model(images).sum().backward()


def main() -> None:
    devices = int(sys.argv[1])
    jax.config.update("jax_num_cpu_devices", devices)
    layers = f"model.hidden=[{devices}]", f"train.global_batch_size={devices}"
    small = config_of("experiment=digits_mlp", *layers)
    sharded = config_of("experiment=digits_mlp", *layers, "parallel=fsdp")
    deep = config_of("experiment=cifar10_resnet18", "data=synthetic")
    found = {
        "parameters": parameter_count(small, random_weights(small)),
        "jax": in_jax(small, devices),
        "ddp": in_ddp(small, devices),
        "jax fsdp": in_jax(sharded, devices),
        "fsdp": in_fsdp(sharded, devices),
        "padded": padded_bytes(sharded, devices),
        "deep parameters": parameter_count(deep, random_weights(deep)),
        "deep ddp": in_ddp(deep, devices),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
