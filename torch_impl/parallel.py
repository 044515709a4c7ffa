"""Who takes part in a run, and how numbers move between them.

A process owns one device. Parallelism is applied to a model from outside, by wrapping
it in DistributedDataParallel.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recipe.config import Config, world_size
from recipe.errors import ConfigError, DuetError
from recipe.processes import Processes, check_accelerators
from record.environment import peak_resident_bytes
from torch_impl.layers import BatchNorm

T = TypeVar("T")

# Rank 0 may be downloading a dataset while the others wait for it.
FIRST_TIMEOUT = timedelta(minutes=60)
TEXT_BYTES = 4096  # of a message from rank 0: a path, or one error


@dataclass(frozen=True)
class World:
    """One process's view of the run.

    Args:
      rank: this process, from 0.
      processes: of the run.
      size: devices of the run.
      device: this process's own.
    """

    rank: int
    processes: int
    size: int
    device: torch.device


def check(config: Config, processes: Processes) -> None:
    """Refuse what PyTorch cannot do, before anything starts."""
    if config.parallel.name == "pmap":
        raise ConfigError("parallel=pmap is JAX's alone; PyTorch takes parallel=dp")
    devices = world_size(config, processes)
    if devices != processes.count:
        raise ConfigError(
            f"devices={devices} in {processes.count} process(es): PyTorch takes one "
            "process per device; without devices=, start torchrun --standalone "
            f"--nproc-per-node={devices} launch/pytorch.py"
        )
    if config.platform == "gpu":
        check_accelerators(
            processes.local_rank + 1, torch.accelerator.device_count(), "PyTorch"
        )


def start(config: Config, processes: Processes) -> World:
    """Choose the device and join the process group, where there is one.

    Raises:
      ConfigError: if this node has fewer accelerators than processes.
    """
    present = torch.accelerator.device_count()
    if config.platform == "cpu" or (config.platform == "auto" and present == 0):
        device = torch.device("cpu")
    else:
        check_accelerators(processes.local_rank + 1, present, "PyTorch")
        device = torch.device(_accelerator_type(), processes.local_rank)
        torch.accelerator.set_device_index(processes.local_rank)
    if processes.count > 1:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            # torchrun's store is already there; srun's tasks make one.
            init_method=(
                "env://"
                if processes.launcher == "torchrun"
                else f"tcp://{processes.coordinator}"
            ),
            rank=processes.rank,
            world_size=processes.count,
            timeout=FIRST_TIMEOUT,
        )
    return World(processes.rank, processes.count, processes.count, device)


def _accelerator_type() -> str:
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None  # device_count() found some
    return accelerator.type


def device_names(world: World) -> list[str]:
    """What this process computes on, for the record."""
    if world.device.type == "cuda":
        return [torch.cuda.get_device_name(world.device)]
    return [str(world.device)]


def replicate(array: np.ndarray, world: World) -> Tensor:
    """The whole array on this rank's device."""
    # A copy: a memory-mapped dataset is read-only, which tensors cannot be.
    return torch.tensor(array, device=world.device)


def shard(rows: np.ndarray, world: World) -> Tensor:
    """This rank's rows of a batch, on its device."""
    return torch.from_numpy(rows.copy()).to(world.device, non_blocking=True)


def shard_all(columns: Any, world: World) -> Any:
    """Columns of a batch as `shard` places each; None where there are none."""
    if columns is None:
        return None
    return type(columns)(*(shard(column, world) for column in columns))


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks, on each of them; every rank's loss is one of its readers."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _SumOverRanks.apply(*gradients)


def scope_norms(model: nn.Module, world: World) -> None:
    """Let each BatchNorm with `sync` take its statistics over all ranks' examples."""
    for layer in model.modules():
        if isinstance(layer, BatchNorm) and layer.sync and world.processes > 1:
            layer.sum_over_ranks, layer.ranks = _SumOverRanks.apply, world.processes


def share_statistics(model: nn.Module, world: World) -> None:
    """Give every rank the running statistics of rank 0, its own where they are local.

    They are what is evaluated and recorded.
    """
    if world.processes > 1:
        for statistic in model.buffers():
            dist.broadcast(statistic, src=0)


def parallelize(model: nn.Module, world: World) -> nn.Module:
    """The model whose backward pass averages gradients over ranks."""
    if world.processes == 1:
        return model
    device_ids = None if world.device.type == "cpu" else [world.device]
    return DistributedDataParallel(
        model,
        device_ids=device_ids,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # `share_statistics` does, and not at every step
    )


def to_host(tensors: list[Tensor], world: World) -> np.ndarray:
    """Tensors of one shape that all ranks agree on, stacked on the host."""
    return torch.stack(tensors).cpu().numpy()


def sum_over_ranks(tensors: list[Tensor], world: World) -> np.ndarray:
    """Tensors of one shape, stacked and summed over ranks, on the host."""
    stacked = torch.stack(tensors)
    if world.processes > 1:
        dist.all_reduce(stacked)
    return to_host([stacked], world)[0]


def gather_ranks(values: list[float], world: World) -> Float[np.ndarray, "ranks n"]:
    """Every rank's values on every rank."""
    own = torch.tensor(values, dtype=torch.float32, device=world.device)
    if world.processes == 1:
        return own.cpu().numpy()[None]
    rows = [torch.empty_like(own) for _ in range(world.processes)]
    dist.all_gather(rows, own)
    return torch.stack(rows).cpu().numpy()


def from_rank_zero(answer: Callable[[], str], world: World) -> str:
    """Rank 0's answer on every rank; or, on every rank, the error it met.

    Raises:
      DuetError: what rank 0 raised, there with its own class.
    """
    if world.processes == 1:
        return answer()
    error, text = None, ""
    if world.rank == 0:
        try:
            text = "+" + answer()
        except DuetError as caught:
            error, text = caught, "-" + str(caught)
    message = np.zeros(TEXT_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode()[:TEXT_BYTES], np.uint8)
    message[: len(encoded)] = encoded
    shared = shard(message, world)
    dist.broadcast(shared, src=0)
    text = shared.cpu().numpy().tobytes().rstrip(b"\0").decode(errors="replace")
    if error is not None:
        raise error
    if text.startswith("-"):
        raise DuetError(text[1:])
    return text[1:]


def on_every_rank(make: Callable[[], T], world: World) -> T:
    """Each rank's own result; or, if any rank meets an error, an error on all.

    Raises:
      DuetError: a rank's own, or which ranks have one.
    """
    result, own = None, None
    try:
        result = make()
    except DuetError as error:
        own = error
    failed = gather_ranks([own is not None], world)[:, 0].nonzero()[0].tolist()
    if own is not None:
        own.of_one_rank = len(failed) < world.processes
        raise own
    if failed:
        raise DuetError(f"stopped, since ranks {failed} could not go on")
    return cast(T, result)


def synchronize(world: World) -> None:
    """Wait until this rank's device has done all that was asked of it."""
    if world.device.type != "cpu":
        torch.accelerator.synchronize(world.device)


def peak_memory_bytes(world: World) -> int:
    """The device's peak allocation; on a CPU, the process's peak resident memory."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device)
    return peak_resident_bytes()


def stop(world: World) -> None:
    """Leave the process group in good order."""
    if world.processes > 1:
        # The model wrapped by DDP is part of a reference cycle and holds the group; its
        # gloo threads must not outlive the interpreter, which they would abort with
        # "terminate called without an active exception" (pytorch#190489).
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
