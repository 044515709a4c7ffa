"""Processes and devices of a run, and communication between them.

A process owns one or several devices. Parallelism is applied to a step from outside: it
is compiled for a mesh of all devices, on which parameters may be sharded, or by pmap;
in the step `exchange.share_gradients` reduces the devices' gradients.
"""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from jax_impl.precision import choose_kernels
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.execution import Strategy
from record.environment import peak_resident_bytes
from record.gpus import check_gpus_used, list_gpus
from runtime.agreement import Ranks
from runtime.allocator import keep_freed_memory
from runtime.devices import count_visible, jax_finds_gpus, own_devices
from runtime.processes import Processes
from runtime.sharding import check_shards, sharded_axis
from runtime.world import world_size

AXIS = "data"  # the batch's axis of the mesh
STEPS_IN_FLIGHT = 16  # at most, on several CPU devices of one process


@dataclass(frozen=True)
class World:
    """One process's view of the run.

    Args:
      rank: this process, from 0.
      processes: of the run.
      size: devices of the run.
      mesh: all devices in order of process, along one axis.
      strategy: how devices share the work.
      grad_sync: whether they exchange gradients; false only to time steps without that,
        all else being equal.
    """

    rank: int
    processes: int
    size: int
    mesh: Mesh
    strategy: Strategy = Strategy.DP
    grad_sync: bool = True

    @property
    def sharded(self) -> bool:
        """Whether a device keeps only its shard of parameters and optimizer state."""
        return self.strategy is Strategy.FSDP

    @property
    def mapped(self) -> bool:
        """Whether steps are compiled by pmap, instead of jit over the mesh."""
        return self.strategy is Strategy.PMAP

    @property
    def local(self) -> bool:
        """Whether each device trains a replica of its own between rounds."""
        return self.strategy is Strategy.LOCAL_SGD

    @property
    def ranks(self) -> Ranks:
        """Agreement between processes, by collectives on their devices."""

        def gather(values: list[float]) -> Float[np.ndarray, "ranks n"]:
            own = np.array(values, np.float64)
            if self.processes == 1:
                return own[None]
            # As bytes: JAX would convert them to fp32.
            gathered = multihost_utils.process_allgather(own.view(np.uint8))
            return np.ascontiguousarray(gathered).view(np.float64)

        def broadcast(message: np.ndarray) -> np.ndarray:
            return np.asarray(multihost_utils.broadcast_one_to_all(message))

        return Ranks(self.rank, self.processes, gather, broadcast)

    @property
    def axis(self) -> str | None:
        """The axis over which the whole step is mapped, with explicit sums or none."""
        return AXIS if self.mapped or not self.grad_sync else None

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def split(self, axis: int) -> NamedSharding:
        """Over one axis; under pmap of this process's devices only."""
        mesh = self.mesh.local_mesh if self.mapped else self.mesh
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def check(config: Config, processes: Processes) -> None:
    """Refuse what JAX cannot do, before anything starts."""
    check_shards(config, processes)
    check_gpus_used("JAX", config.platform, jax_finds_gpus(os.environ), os.environ)
    _accelerators(config, processes)


def start(config: Config, processes: Processes) -> World:
    """Choose the devices and join the other processes, where there are any.

    Raises:
      ConfigError: if this process sees fewer accelerators of its own than requested.
    """
    keep_freed_memory()
    choose_kernels(config)
    jax.config.update("jax_compilation_cache_dir", None)  # until `open_cache`
    local = world_size(config, processes) // processes.count
    jax.config.update("jax_num_cpu_devices", local)
    if config.platform != "auto":
        jax.config.update("jax_platforms", config.platform)
    if processes.count > 1:
        # gRPC would contact the coordinator through a proxy, and wait forever.
        host, _, port = processes.coordinator.rpartition(":")
        key = "no_grpc_proxy"
        direct = os.environ.get(key) or os.environ.get("no_proxy", "")
        os.environ[key] = f"{direct},{host}".removeprefix(",")
        jax.config.update("jax_check_proxy_envs", False)
        # Its preemption service would replace our SIGTERM handler.
        jax.config.update("jax_enable_preemption_service", False)
        # All explicit: JAX's auto-detection gives one device per process, and fails in
        # SLURM environments that lack some variables. With several nodes it listens on
        # all interfaces, since Debian maps a node's own name to 127.0.1.1.
        jax.distributed.initialize(
            processes.coordinator,
            processes.count,
            processes.rank,
            local_device_ids=_accelerators(config, processes),
            coordinator_bind_address=f"{host if processes.one_node else '[::]'}:{port}",
        )
    try:
        present = jax.local_devices()
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"platform={config.platform}: JAX finds no such device; use platform=cpu, "
            "or install JAX for it (make setup EXTRAS=dev,cuda) and look at "
            f"JAX_PLATFORMS. It says: {error or 'nothing'}"
        ) from error
    if present[0].platform == "cpu" and not _asks_for_cpu():  # a plugin has failed
        check_gpus_used("JAX", config.platform, False, os.environ)
    if present[0].platform != "cpu":
        own_devices(os.environ, len(present), Processes(), local, "JAX")
    devices = [
        device
        for rank in range(processes.count)
        for device in jax.local_devices(process_index=rank)[:local]
    ]
    # Not make_mesh, which may reorder devices and with them the batch's rows.
    mesh = Mesh(np.array(devices), (AXIS,))
    if processes.count > 1:
        # The first collective creates the gloo context, which waits only 30 s for all
        # ranks: they are all here now, while later rank 0 may be downloading.
        multihost_utils.process_allgather(np.zeros(1))
    strategy, grad_sync = Strategy(config.parallel.name), config.parallel.grad_sync
    size = len(devices)
    return World(processes.rank, processes.count, size, mesh, strategy, grad_sync)


def _accelerators(config: Config, processes: Processes) -> list[int]:
    """Indices of this process's accelerators, before JAX starts a backend."""
    present, each = None, world_size(config, processes) // processes.count
    on_gpus = jax_finds_gpus(os.environ) and not _asks_for_cpu()
    if config.platform == "gpu":
        present = count_visible(os.environ, list_gpus())
    elif config.platform == "auto" and on_gpus:
        present = count_visible(os.environ, list_gpus()) or None  # none: the CPU
    return own_devices(os.environ, present, processes, each, "JAX")


def _asks_for_cpu() -> bool:
    return os.environ.get("JAX_PLATFORMS") == "cpu"


def device_names(world: World) -> list[str]:
    """The names of this process's devices, for the record."""
    return [f"{d.device_kind} {d.id}" for d in world.mesh.local_devices]


def replicate(tree: Any, world: World) -> Any:
    """Replicate a tree of arrays on every device; under pmap along a new first axis."""
    if world.mapped:
        local = len(world.mesh.local_devices)
        tree = jax.tree.map(lambda x: np.broadcast_to(x, (local, *np.shape(x))), tree)
        return jax.device_put(tree, world.split(0))
    place = partial(jax.make_array_from_process_local_data, world.replicated)
    return jax.tree.map(lambda leaf: place(np.asarray(leaf)), tree)


def place_state(tree: Any, world: World) -> Any:
    """Place parameters or optimizer state: replicated, or under fsdp sharded.

    An array is split over its longest axis that the devices divide; one without, such
    as a small bias, is replicated.
    """
    if not world.sharded:
        return replicate(tree, world)

    def place(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        sharding = NamedSharding(world.mesh, shards(array.shape, world))
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: array[index]
        )

    return jax.tree.map(place, tree)


def shards(shape: tuple[int, ...], world: World) -> PartitionSpec:
    """The sharding of a parameter of this shape; replicated except under fsdp.

    PyTorch's `fully_shard` decides that by itself.
    """
    axis = sharded_axis(shape, world.size) if world.sharded else None
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)


def place_batch(columns: Any, world: World, axis: int = 0) -> Any:
    """This process's rows of a batch, split over its devices.

    Args:
      columns: an array or a tree of them, or None.
      axis: of the rows.
    """

    def place(rows: np.ndarray) -> jax.Array:
        if not world.mapped:
            sharding = world.split(axis)
            return jax.make_array_from_process_local_data(sharding, rows)
        parts = np.split(rows, len(world.mesh.local_devices), axis)
        return jax.device_put(np.stack(parts), world.split(0))

    return jax.tree.map(place, columns)


def parallelize(
    step: Callable[..., Any], example: tuple[Any, ...], world: World, donate: bool
) -> tuple[Callable[..., Any], float]:
    """Compile the step for all devices; returns it and the seconds that took.

    Args:
      step: a pure function of arrays; sums over `world.axis` explicitly if there is
        one.
      example: arguments, placed as in use.
      donate: whether the first result reuses the memory and sharding of the first
        argument. Everything else is replicated, or of such a step of local SGD has an
        axis of replicas.
    """
    begin = time.perf_counter()
    mapped = _mapped(step, example, world, donate)
    if world.mapped:
        # What pmap compiles ahead of time cannot be called, so a copy is run once.
        jax.block_until_ready(mapped(*jax.tree.map(jnp.copy, example)))
    else:
        mapped = mapped.lower(*example).compile()
    return limit_in_flight(mapped, world), time.perf_counter() - begin


def _mapped(
    step: Callable[..., Any], example: tuple[Any, ...], world: World, donate: bool
) -> Any:
    """The step over all devices, not compiled yet; arguments as of `parallelize`."""
    donated = (0,) if donate else ()
    if world.mapped:
        devices = tuple(world.mesh.devices.flat)
        return jax.pmap(step, axis_name=AXIS, devices=devices, donate_argnums=donated)
    replicas = world.local and donate
    if replicas or not world.grad_sync:
        # Mapped as a whole: arrays that jit calls replicated then differ by device.
        specs = jax.tree.map(lambda leaf: leaf.sharding.spec, example)
        step = jax.shard_map(
            step,
            mesh=world.mesh,
            in_specs=specs,
            out_specs=PartitionSpec(AXIS) if replicas else PartitionSpec(),
            check_vma=False,
        )
    shardings: Any = world.split(0) if replicas else world.replicated
    if donate:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, example[0]), shardings
    return jax.jit(step, donate_argnums=donated, out_shardings=shardings)


def limit_in_flight(
    step: Callable[..., Any], world: World, most: int = STEPS_IN_FLIGHT
) -> Callable[..., Any]:
    """The step, awaited regularly if several CPU devices share a process.

    XLA allows 32 computations in flight on a CPU device. Launching the 33rd blocks a
    thread of the pool that runs them all: on two cores none is left for the device
    whose part of an all-reduce the others wait for, and XLA aborts (128 steps at once
    on two devices of two cores: always; 31: never).
    """
    devices = world.mesh.local_devices
    if len(devices) == 1 or devices[0].platform != "cpu":
        return step
    issued = itertools.count(1)

    @wraps(step)
    def limited(*arguments: Any) -> Any:
        result = step(*arguments)
        if next(issued) % most == 0:
            synchronize(result)
        return result

    return limited


def unshard(array: jax.Array, world: World) -> jax.Array:
    """An array replicated on every device. Collective."""
    if world.mapped or array.is_fully_replicated:
        return array
    return _whole(world.replicated)(array)


@cache
def _whole(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda whole: whole, out_shardings=sharding)


def to_host(arrays: list[jax.Array], world: World) -> np.ndarray:
    """Replicated arrays of one shape, stacked on the host."""
    local = [np.asarray(array.addressable_data(0)) for array in arrays]
    return np.stack([array[0] if world.mapped else array for array in local])


def sum_over_ranks(arrays: list[jax.Array], world: World) -> np.ndarray:
    """Arrays of one shape, stacked on the host; the compiled step has summed them.

    Except without gradient exchange: then each device has its own, summed here.
    """
    if world.grad_sync:
        return to_host(arrays, world)
    parts = [[np.asarray(s.data) for s in a.addressable_shards] for a in arrays]
    own = np.stack([np.sum(part, axis=0) for part in parts])
    return world.ranks.gather(own.ravel().tolist()).sum(axis=0).reshape(own.shape)


def gather_rows(batches: list[jax.Array], world: World) -> np.ndarray:
    """The rows of equal batches, in order, on the host.

    The compiled step has gathered them.
    """
    return np.concatenate(to_host(batches, world))


def gather_replicas(
    arrays: list[jax.Array], world: World
) -> Float[np.ndarray, "arrays replicas ..."]:
    """Arrays of one shape, whose first axis is that of the replicas, on the host.

    Collective.
    """

    def of_this_process(array: jax.Array) -> np.ndarray:
        shards = sorted(array.addressable_shards, key=lambda s: s.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    own = np.stack(list(map(of_this_process, arrays)))
    gathered = world.ranks.gather(own.ravel().tolist())
    parts = [row.reshape(own.shape) for row in gathered]
    return np.concatenate(parts, axis=1)


def synchronize(tree: Any) -> None:
    """Wait until the devices have computed the tree."""
    jax.block_until_ready(tree)


def peak_memory_bytes(world: World) -> int:
    """The devices' peak allocation; on a CPU, the process's peak resident memory."""
    stats = [device.memory_stats() for device in world.mesh.local_devices]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    return max(peaks) if peaks else peak_resident_bytes()


def stop(world: World) -> None:
    """Disconnect from the other processes."""
    if world.processes > 1:
        jax.distributed.shutdown()
