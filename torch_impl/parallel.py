"""Processes and devices of a run, and communication between them.

A process owns one device. Parallelism is applied to a model from outside: it is wrapped
in DistributedDataParallel, or its parameters are sharded.
"""

import gc
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.execution import Strategy
from record.environment import peak_resident_bytes
from record.gpus import check_gpus_used
from runtime.agreement import Ranks
from runtime.allocator import keep_freed_memory
from runtime.devices import own_devices
from runtime.interfaces import gloo_interface
from runtime.processes import Processes
from runtime.sharding import check_shards
from runtime.world import world_size
from torch_impl.precision import choose_kernels

if TYPE_CHECKING:  # else only imported for fsdp, since they take a second
    from torch.distributed.tensor import DTensor

# Timeout of every collective: rank 0 may be downloading a dataset meanwhile.
COLLECTIVE_TIMEOUT = timedelta(minutes=60)


@dataclass(frozen=True)
class World:
    """One process's view of the run.

    Args:
      rank: this process, from 0.
      processes: of the run.
      size: devices of the run.
      device: of this process.
      strategy: how devices share the work.
      grad_sync: whether they exchange gradients; false only to time steps without that,
        all else being equal.
    """

    rank: int
    processes: int
    size: int
    device: torch.device
    strategy: Strategy = Strategy.DP
    grad_sync: bool = True

    @property
    def sharded(self) -> bool:
        """Whether a rank keeps only its shard of parameters and optimizer state."""
        return self.strategy is Strategy.FSDP and self.processes > 1

    @property
    def local(self) -> bool:
        """Whether each rank trains a replica of its own between rounds."""
        return self.strategy is Strategy.LOCAL_SGD

    @property
    def ranks(self) -> Ranks:
        """Agreement between processes, by collectives on their devices."""

        def gather(values: list[float]) -> Float[np.ndarray, "ranks n"]:
            own = torch.tensor(values, dtype=torch.float64, device=self.device)
            if self.processes == 1:
                return own.cpu().numpy()[None]
            rows = [torch.empty_like(own) for _ in range(self.processes)]
            dist.all_gather(rows, own)
            return torch.stack(rows).cpu().numpy()

        def broadcast(message: np.ndarray) -> np.ndarray:
            shared = torch.from_numpy(message).to(self.device)
            dist.broadcast(shared, src=0)
            return shared.cpu().numpy()

        return Ranks(self.rank, self.processes, gather, broadcast)


def check(config: Config, processes: Processes) -> None:
    """Refuse what PyTorch cannot do, before anything starts."""
    if config.parallel.name == Strategy.PMAP:
        raise ConfigError(
            f"parallel={config.parallel.name} is JAX's alone; "
            "PyTorch takes parallel=dp, fsdp, local_sgd or diloco"
        )
    check_shards(config, processes)
    compiler = os.environ.get("CXX", "g++")
    if config.compile and shutil.which(compiler) is None:
        raise ConfigError(
            f"compile={str(config.compile).lower()}: torch.compile needs a C++ "
            f"compiler, and {compiler} is not found; install one, set CXX to it, or "
            "leave compile at false"
        )
    on_cpu = config.platform == "cpu" or not torch.cuda.is_available()
    if config.compile == "max" and (on_cpu or config.parallel.name == Strategy.FSDP):
        found = "no GPU" if on_cpu else "parallel=fsdp, whose parameters move"
        raise ConfigError(
            f"compile=max replays the model as CUDA graphs, and there is {found}; "
            "use compile=true, or parallel=dp on GPUs"
        )
    if config.compile == "max" and config.train.grad_accum_steps > 1:
        # The next micro-batch would overwrite what the graph has left as gradients
        # (pytorch#169545).
        raise ConfigError(
            f"compile=max with train.grad_accum_steps={config.train.grad_accum_steps}: "
            "CUDA graphs reuse the memory of gradients; use compile=true, or "
            "train.grad_accum_steps=1"
        )
    devices = world_size(config, processes)
    if devices != processes.count:
        raise ConfigError(
            f"devices={devices} in {processes.count} process(es): PyTorch takes one "
            "process per device; without devices=, start torchrun --standalone "
            f"--nproc-per-node={devices} launch/pytorch.py"
        )
    _accelerator(config, processes)


def start(config: Config, processes: Processes) -> World:
    """Choose the device and join the process group, where there is one.

    Raises:
      ConfigError: if this process sees no accelerator of its own.
    """
    keep_freed_memory()
    choose_kernels(config)
    device, own = torch.device("cpu"), _accelerator(config, processes)
    if own is not None:
        device = torch.device(_accelerator_type(), own)
        torch.accelerator.set_device_index(own)
    if processes.count > 1:
        if processes.one_node:
            # gloo would listen on the address of this machine's name, not on loopback.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", socket.if_indextoname(1))
        elif interface := gloo_interface(processes.coordinator.rpartition(":")[0]):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            # torchrun's store survives a restart, with the addresses of the previous
            # ranks; gloo would wait for them.
            store=PrefixStore(f"restart {processes.restart}", _store(processes)),
            rank=processes.rank,
            world_size=processes.count,
            timeout=COLLECTIVE_TIMEOUT,
            # NCCL connects now, not at the first collective of each pair of ranks.
            device_id=None if device.type == "cpu" else device,
        )
    strategy, grad_sync = Strategy(config.parallel.name), config.parallel.grad_sync
    size = processes.count
    world = World(processes.rank, size, size, device, strategy, grad_sync)
    if processes.count > 1:
        # What the first collective sets up waits for all ranks: they are all here now,
        # while later rank 0 may be downloading.
        world.ranks.gather([0.0])
    return world


def _accelerator(config: Config, processes: Processes) -> int | None:
    """The index of this process's accelerator; None: the CPU."""
    present = torch.accelerator.device_count()
    if config.platform == "cpu" or (config.platform == "auto" and present == 0):
        check_gpus_used("PyTorch", config.platform, present > 0, os.environ)
        return None
    (own,) = own_devices(os.environ, present, processes, 1, "PyTorch")
    return own


def _store(processes: Processes) -> Store:
    """The rendezvous store: torchrun has one, under srun rank 0 makes one."""
    rank, count, place = processes.rank, processes.count, processes.coordinator
    # Else the store has its own, of half an hour.
    patient = {"timeout": COLLECTIVE_TIMEOUT}
    if processes.launcher == "torchrun":
        return next(rendezvous("env://", rank, count, **patient))[0]
    if not processes.one_node:
        return next(rendezvous(f"tcp://{place}", rank, count, **patient))[0]
    # The same, but listening on loopback instead of all addresses.
    host, _, port = place.rpartition(":")
    listening = socket.create_server((host, int(port))).detach() if rank == 0 else None
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        *(host, int(port), count, rank == 0, COLLECTIVE_TIMEOUT),
        master_listen_fd=listening,
    )


def _accelerator_type() -> str:
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None  # device_count() found some
    return accelerator.type


def device_names(world: World) -> list[str]:
    """The names of this process's devices, for the record."""
    if world.device.type == "cuda":
        return [f"{torch.cuda.get_device_name(world.device)} {world.device.index}"]
    return [str(world.device)]


def replicate(tree: Any, world: World) -> Any:
    """An array, a tuple or NamedTuple of them, or None, whole on this rank's device."""
    # A copy, since a memory-mapped dataset is read-only and tensors cannot be.
    return _each(lambda array: torch.tensor(array, device=world.device), tree)


def _each(place: Callable[[Any], Tensor], tree: Any) -> Any:
    if tree is None:
        return None
    if isinstance(tree, tuple):
        placed = [_each(place, part) for part in tree]
        return type(tree)(*placed) if hasattr(tree, "_fields") else tuple(placed)
    return place(tree)


def place_state(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor placed like a parameter: under fsdp, this rank's shard of it."""
    if is_sharded(like):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether it is sharded."""
    module = sys.modules.get("torch.distributed.tensor")  # if not imported, no
    return module is not None and isinstance(tensor, module.DTensor)


def own_shards(tensors: list[Any]) -> list[Any]:
    """The tensors, or this rank's shards of them, to be changed in place.

    A kernel over a list of tensors takes shards like any others, where a DTensor may
    have no rule for it (a fused SGD, torch 2.14).
    """
    if "torch.distributed.tensor" not in sys.modules:
        return tensors
    with torch.no_grad():
        return [t.to_local() if is_sharded(t) else t for t in tensors]


def place_batch(columns: Any, world: World, axis: int = 0) -> Any:
    """This rank's rows of a batch, on its device; None where there are none.

    Args:
      columns: an array, or a tuple or NamedTuple of them.
      axis: of the rows; only JAX needs it.
    """
    # Only a copy from pinned memory is asynchronous.
    pinned = world.device.type != "cpu"

    def place(rows: np.ndarray) -> Tensor:
        return torch.tensor(rows, pin_memory=pinned).to(world.device, non_blocking=True)

    return _each(place, columns)


def parallelize(model: nn.Module, world: World, every_pass: bool = False) -> nn.Module:
    """The model, wrapped so that its backward pass averages gradients over ranks.

    A model that is only evaluated has no gradients, but is sharded in the same way.

    Args:
      every_pass: whether it does so in each, as without accumulation; then to DDP its
        graph is static.
    """
    if world.processes == 1 or world.local or not world.grad_sync:
        return model
    trained = any(parameter.requires_grad for parameter in model.parameters())
    if world.sharded:
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(world.device.type, (world.size,))
        # Blocks are sharded one by one, inner ones first; the root has the rest.
        for module in reversed(list(model.modules())):
            if isinstance(module, nn.ModuleList):
                for block in module:
                    fully_shard(block, mesh=mesh)
        # The root is not resharded after the forward pass, as backward needs it next.
        stays = None if trained else True
        fully_shard(model, mesh=mesh, reshard_after_forward=stays)
        return model  # the same model, sharded from here on
    if not trained:
        return model
    device_ids = None if world.device.type == "cpu" else [world.device]
    wrapped = DistributedDataParallel(
        model,
        device_ids=device_ids,
        gradient_as_bucket_view=True,
        static_graph=every_pass,
    )
    # `share_statistics` sends them, and not at every step. As an argument this has
    # another name before torch 2.13.
    wrapped.broadcast_buffers = False
    return wrapped


def unshard(tensor: Tensor, world: World) -> Tensor:
    """The whole of a possibly sharded tensor. Collective."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def to_host(tensors: Sequence[Tensor | float], world: World) -> np.ndarray:
    """Tensors of one shape that are equal on all ranks, stacked on the host.

    Numbers are there already.
    """
    if isinstance(tensors[0], Tensor):
        return torch.stack(cast(list[Tensor], tensors)).cpu().numpy()
    return np.array(tensors)


def sum_over_ranks(tensors: list[Tensor], world: World) -> np.ndarray:
    """Tensors of one shape, stacked and summed over ranks, on the host."""
    stacked = torch.stack(tensors)
    if world.processes > 1:
        dist.all_reduce(stacked)
    return to_host([stacked], world)[0]


def gather_rows(batches: list[Tensor], world: World) -> np.ndarray:
    """The rows of equal batches, each a part of them, in order, on the host.

    Collective.
    """
    stacked = torch.stack(batches)
    parts = [stacked]
    if world.processes > 1:
        parts = [torch.empty_like(stacked) for _ in range(world.processes)]
        dist.all_gather(parts, stacked)
    whole = torch.stack(parts, dim=1)  # batch, rank, row
    return to_host([whole.flatten(0, 2)], world)[0]


def gather_replicas(
    tensors: list[Tensor], world: World
) -> Float[np.ndarray, "tensors replicas ..."]:
    """Tensors of one shape, of which each replica has its own, on the host.

    Collective.
    """
    stacked = torch.stack(tensors)
    parts = [stacked]
    if world.processes > 1:
        parts = [torch.empty_like(stacked) for _ in range(world.processes)]
        dist.all_gather(parts, stacked)
    return to_host([torch.stack(parts, dim=1)], world)[0]


def synchronize(world: World) -> None:
    """Wait until this rank's device has finished all work."""
    if world.device.type != "cpu":
        torch.accelerator.synchronize(world.device)


def peak_memory_bytes(world: World) -> int:
    """The device's peak allocation; on a CPU, the process's peak resident memory."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device)
    return peak_resident_bytes()


def stop(world: World) -> None:
    """Shut down the process group."""
    if world.processes > 1:
        # A DDP model is part of a reference cycle that keeps the group alive; its gloo
        # threads must not outlive the interpreter, which they would abort with
        # "terminate called without an active exception" (pytorch#190489).
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
