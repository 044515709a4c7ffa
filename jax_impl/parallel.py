"""Who takes part in a run, and how numbers move between them.

A process owns one or several devices. Parallelism is applied to a step from outside, by
compiling it for a mesh of all devices, or by pmap.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from jax_impl.layers import BatchNorm
from recipe.config import Config, world_size
from recipe.errors import ConfigError, DuetError
from recipe.processes import Processes, check_accelerators
from record.environment import peak_resident_bytes

T = TypeVar("T")

AXIS = "data"  # the batch's axis of the mesh
TEXT_BYTES = 4096  # of a message from rank 0: a path, or one error


@dataclass(frozen=True)
class World:
    """One process's view of the run.

    Args:
      rank: this process, from 0.
      processes: of the run.
      size: devices of the run.
      mesh: all devices in order of process, along one axis.
      pmap: whether steps are compiled by pmap instead of jit over the mesh.
    """

    rank: int
    processes: int
    size: int
    mesh: Mesh
    pmap: bool

    @property
    def axis(self) -> str | None:
        """The axis that a step has to sum over by hand."""
        return AXIS if self.pmap else None

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """Over the first axis; pmap speaks of this process's devices alone."""
        mesh = self.mesh.local_mesh if self.pmap else self.mesh
        return NamedSharding(mesh, PartitionSpec(AXIS))


def check(config: Config, processes: Processes) -> None:
    """Refuse what JAX cannot do, before anything starts: nothing, so far."""


def start(config: Config, processes: Processes) -> World:
    """Choose the devices and join the other processes, where there are any.

    Raises:
      ConfigError: if this node has fewer accelerators than are asked for.
    """
    local = world_size(config, processes) // processes.count
    jax.config.update("jax_num_cpu_devices", local)
    if config.platform != "auto":
        jax.config.update("jax_platforms", config.platform)
    if processes.count > 1:
        # Said in full: what JAX finds by itself is one device per process, and it fails
        # on SLURM environments that lack some variables.
        first = processes.local_rank * local
        # Its preemption service would take SIGTERM away from whoever handles it here.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            processes.coordinator,
            processes.count,
            processes.rank,
            local_device_ids=list(range(first, first + local)),
            coordinator_bind_address=processes.coordinator,
        )
    try:
        present = jax.local_devices()
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"platform={config.platform} finds no device: {error or 'none at all'}; "
            "use platform=cpu, and look at JAX_PLATFORMS"
        ) from error
    check_accelerators(local, len(present), "JAX")
    devices = [
        device
        for rank in range(processes.count)
        for device in jax.local_devices(process_index=rank)[:local]
    ]
    # Mesh itself, since make_mesh may reorder devices and with them the batch's rows.
    mesh = Mesh(np.array(devices), (AXIS,))
    if processes.count > 1:
        # Its gloo context is made by the first collective, and waits 30 s for everyone:
        # now they are all here, later rank 0 may be downloading.
        multihost_utils.process_allgather(np.zeros(1))
    pmap = config.parallel.name == "pmap"
    return World(processes.rank, processes.count, len(devices), mesh, pmap)


def device_names(world: World) -> list[str]:
    """What this process computes on, for the record."""
    return [f"{d.device_kind} {d.id}" for d in world.mesh.local_devices]


def replicate(tree: Any, world: World) -> Any:
    """The whole tree of arrays on every device; under pmap along a new first axis."""
    if world.pmap:
        local = len(world.mesh.local_devices)
        tree = jax.tree.map(lambda x: np.broadcast_to(x, (local, *np.shape(x))), tree)
        return jax.device_put(tree, world.split)
    place = partial(jax.make_array_from_process_local_data, world.replicated)
    return jax.tree.map(lambda leaf: place(np.asarray(leaf)), tree)


def shard(rows: np.ndarray, world: World) -> jax.Array:
    """This process's rows of a batch, split over its devices."""
    if world.pmap:
        local = len(world.mesh.local_devices)
        return jax.device_put(rows.reshape(local, -1, *rows.shape[1:]), world.split)
    return jax.make_array_from_process_local_data(world.split, rows)


def shard_all(columns: Any, world: World) -> Any:
    """Columns of a batch as `shard` places each; None where there are none."""
    return jax.tree.map(lambda column: shard(column, world), columns)


def scope_norms(model: nnx.Module, world: World) -> None:
    """Let each BatchNorm take its statistics over the examples that `sync` says.

    Under jit a layer sees the global batch, under pmap a device's share of it.
    """
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, BatchNorm):
            layer.axis = AXIS if world.pmap and layer.sync else None
            layer.groups = 1 if world.pmap or layer.sync else world.size


def share_statistics(statistics: nnx.State, axis: str) -> nnx.State:
    """The running statistics of the first device, its own where they are local.

    They are what is evaluated and recorded.
    """
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis)[0], statistics)


def parallelize(
    step: Callable[..., Any], example: tuple[Any, ...], world: World, donate: bool
) -> tuple[Callable[..., Any], float]:
    """The step compiled for all devices, and the seconds that took.

    Args:
      step: a pure function of arrays that sums over `world.axis` itself where there is
        one.
      example: arguments, placed as they will be.
      donate: whether the first argument's memory may be reused for the result.
    """
    begin = time.perf_counter()
    donated = (0,) if donate else ()
    if world.pmap:
        devices = world.mesh.devices.flat
        mapped = jax.pmap(
            step, axis_name=AXIS, devices=tuple(devices), donate_argnums=donated
        )
        # Its ahead-of-time compilation cannot be called, so a copy goes through once.
        jax.block_until_ready(mapped(*jax.tree.map(jnp.copy, example)))
        return mapped, time.perf_counter() - begin
    jitted = jax.jit(step, donate_argnums=donated, out_shardings=world.replicated)
    return jitted.lower(*example).compile(), time.perf_counter() - begin


def to_host(arrays: list[jax.Array], world: World) -> np.ndarray:
    """Replicated arrays of one shape, stacked on the host."""
    local = [np.asarray(array.addressable_data(0)) for array in arrays]
    return np.stack([array[0] if world.pmap else array for array in local])


def sum_over_ranks(arrays: list[jax.Array], world: World) -> np.ndarray:
    """Arrays of one shape, stacked on the host; the compiled step has summed them."""
    return to_host(arrays, world)


def gather_ranks(values: list[float], world: World) -> Float[np.ndarray, "ranks n"]:
    """Every rank's values on every rank."""
    own = np.array(values, np.float32)
    if world.processes == 1:
        return own[None]
    return np.asarray(multihost_utils.process_allgather(own))


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
    shared = multihost_utils.broadcast_one_to_all(message)
    text = np.asarray(shared).tobytes().rstrip(b"\0").decode(errors="replace")
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


def synchronize(tree: Any) -> None:
    """Wait until the devices have computed the tree."""
    jax.block_until_ready(tree)


def peak_memory_bytes(world: World) -> int:
    """The devices' peak allocation; on a CPU, the process's peak resident memory."""
    stats = [device.memory_stats() for device in world.mesh.local_devices]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    return max(peaks) if peaks else peak_resident_bytes()


def stop(world: World) -> None:
    """Leave the other processes in good order."""
    if world.processes > 1:
        jax.distributed.shutdown()
