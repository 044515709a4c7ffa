"""Rounds of federated averaging, `federated`: whole clients are dealt to the devices.

A device trains its clients one after the other, each from the global weights with a
fresh optimizer, and without a collective: its steps are compiled for it alone. Then all
devices add up what has changed, in one program.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, algorithm 1.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Int

from data.augment import batch_draws
from data.batches import Batches
from data.clients import Client, round_clients
from data.dropout import batch_keys
from jax_impl.cache import all_found, lookups
from jax_impl.parallel import AXIS, World, parallelize, replicate, synchronize, to_host
from jax_impl.precision import parameter_dtype
from jax_impl.step import (
    DeviceData,
    TrainState,
    compile_evaluation,
    one_step,
    train_step,
)
from recipe.clients import RoundPlan
from recipe.config import Config
from recipe.federated import of_batch_size
from record.metadata import Compilation


class Programs(NamedTuple):
    """What is compiled for one device.

    Args:
      begin: copies the global leaves, for a client to change.
      steps: size of a batch -> `client_step`.
      add: `add_changes`.
      changes, seen: zeros, to which a round's clients add.
      places: 0, 1, 2 and so on, on the device.
    """

    begin: Callable[..., list[Array]]
    steps: dict[int, Callable[..., tuple[list[Array], Array]]]
    add: Callable[..., list[Array]]
    changes: list[Array]
    seen: Array
    places: list[Array]


def place_rounds(
    config: Config, plan: RoundPlan, steps: range, world: World
) -> list[list[list[Client]]]:
    """This process's clients of each round by device, their batches on that."""
    devices = _single_worlds(world)
    first = world.rank * len(devices)

    def placed(client: Client, own: World) -> Client:
        weight = np.asarray(client.weight, parameter_dtype(config))
        batches = {size: replicate(b, own) for size, b in client.batches.items()}
        return Client(replicate(weight, own), client.steps, batches)

    return [
        [
            [
                placed(client, own)
                for client in round_clients(config, plan, step, number, world.size)
            ]
            for number, own in enumerate(devices, start=first)
        ]
        for step in steps
    ]


def compile_rounds(
    config: Config,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    train_data: DeviceData,
    test_data: DeviceData,
    plan: RoundPlan,
    world: World,
) -> tuple[list[Callable[..., Any]], Callable[..., Any], Compilation]:
    """Compile all that a round needs, and evaluation: as `compile_steps`.

    A local step for each size of batch that a client has, on each device.

    Returns:
      `round_step` without its first two arguments, the evaluation, and what that took.
    """
    before, begin = lookups(), time.perf_counter()
    tree, leaves = jax.tree.structure(state), jax.tree.leaves(state)
    moved = len(jax.tree.leaves((state.params, state.statistics)))
    rates = np.zeros(config.train.log_every_steps, parameter_dtype(config))
    scalars = replicate((rates, np.int32(0)), world)
    programs = []
    for own in _single_worlds(world):
        held, data, *at = _on(own, (leaves, train_data, *scalars))
        zeros = [np.zeros((1, *leaf.shape), leaf.dtype) for leaf in held[:moved]]
        changes = replicate(zeros, own)
        seen = replicate(np.zeros((1, 3), rates.dtype), own)
        copy = jax.jit(lambda leaves: [jnp.copy(leaf) for leaf in leaves])
        weight = replicate(np.asarray(1, rates.dtype), own)
        made = Programs(
            begin=copy.lower(held).compile(),
            steps={},
            add=jax.jit(add_changes).lower(changes, held, held, weight).compile(),
            changes=changes,
            seen=seen,
            places=[
                replicate(np.int32(place), own)
                for place in range(max(plan.most_batches.values()))
            ],
        )
        for size, count in plan.most_batches.items():
            step = partial(client_step, config, graphdef, optimizer, own, tree, size)
            batches = replicate(_zeros(config, plan, size, count), own)
            given = held, seen, data, batches, *at, made.places[0]
            made.steps[size], _ = parallelize(step, given, own, donate=True)
        programs.append(made)
    whole = [_gathered([made.changes for made in programs], world)]
    whole += _gathered([[made.seen] for made in programs], world)
    merge = jax.jit(merge_changes, out_shardings=world.replicated)
    merged = merge.lower(leaves, *whole).compile()
    evaluate, _ = compile_evaluation(config, graphdef, state, test_data, world)
    seconds = time.perf_counter() - begin
    step = partial(round_step, programs, merged, world)
    return [step], evaluate, Compilation(seconds, all_found(before))


def _zeros(config: Config, plan: RoundPlan, size: int, count: int) -> Batches:
    """A client's batches of one size as they are placed, still on the host."""
    rows = np.zeros((count, 1, size), np.int32)
    at = config, plan, 0, rows
    return Batches(rows, batch_draws(*at), batch_keys(*at))


def round_step(
    programs: list[Programs],
    merge: Callable[..., tuple[list[Array], Array]],
    world: World,
    leaves: list[Array],
    data: DeviceData,
    rounds: list[list[list[Client]]],
    learning_rates: Float[Array, " S"],
    position: Int[Array, ""],
) -> tuple[list[Array], Float[Array, " metrics"]]:
    """A round in place of an optimizer step: w += sum of weight_k (w_k - w).

    w are the trained parameters and the running statistics, w_k those of client k after
    its local steps. The optimizer has its initial state before and after.

    Args:
      programs: of each device of this process.
      rounds: of a window; each has the clients of each device.

    Returns:
      The leaves, and as metrics the means over all examples of the local steps of
      their losses and gradients' norms.
    """
    chosen = rounds[int(to_host([position], world)[0])]
    devices = _single_worlds(world)
    ends: dict[int, tuple[list[Array], Array]] = {}

    def train(device: int) -> Iterator[None]:
        """Train a device's clients, a step at a time."""
        made, given = programs[device], (leaves, data, learning_rates, position)
        start, held, *at = _on(devices[device], given)
        changes, seen = made.changes, made.seen
        for client in chosen[device]:
            state = made.begin(start)
            for size, place in client.steps:
                batch = client.batches[size], *at, made.places[place]
                state, seen = made.steps[size](state, seen, held, *batch)
                yield
            changes = made.add(changes, state, start, client.weight)
        ends[device] = changes, seen

    running = {device: train(device) for device in range(len(devices))}
    while running:  # in turns, so that all devices compute at once
        for device, steps in list(running.items()):
            if next(steps, "done") == "done":
                del running[device]
    # CPU devices share threads: a sum may not wait for steps that wait for a thread.
    synchronize(ends)
    of_devices = [ends[device] for device in range(len(devices))]
    changes = _gathered([changes for changes, _ in of_devices], world)
    (seen,) = _gathered([[seen] for _, seen in of_devices], world)
    return merge(leaves, changes, seen)


def client_step(
    config: Config,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    world: World,
    tree: Any,
    size: int,
    leaves: list[Array],
    seen: Float[Array, "1 3"],
    data: DeviceData,
    batches: Batches,
    learning_rates: Float[Array, " S"],
    position: Int[Array, ""],
    place: Int[Array, ""],
) -> tuple[list[Array], Float[Array, "1 3"]]:
    """A client's local step, on one device; `window_step` is that over all.

    Args:
      size: examples of its batch.
      seen: sums so far of losses and gradients' norms, and examples.
      place: of its batch among those of this size.
    """
    batch = one_step(batches, place)
    given = tree.unflatten(leaves), data, *batch, learning_rates[position]
    of_size = of_batch_size(config, size)
    state, metrics = train_step(of_size, graphdef, optimizer, world, *given)
    ones = jnp.ones_like(metrics.loss)
    news = jnp.stack([metrics.loss, metrics.grad_norm, ones])
    return jax.tree.leaves(state), seen + size * news[None]


def add_changes(
    changes: list[Array], state: list[Array], start: list[Array], weight: Array
) -> list[Array]:
    """Add what a client has changed, times its weight.

    Args:
      changes: along a new first axis; of parameters and statistics, which come first in
        the other two.
    """
    pairs = zip(changes, state, start, strict=False)
    return [change + weight * (new - old)[None] for change, new, old in pairs]


def merge_changes(
    leaves: list[Array], changes: list[Array], seen: Float[Array, "W 3"]
) -> tuple[list[Array], Float[Array, " metrics"]]:
    """The global leaves after a round, and its metrics; sums over devices.

    Args:
      changes, seen: of W devices.
    """
    count = len(changes)
    pairs = zip(leaves, changes, strict=False)
    moved = [leaf + change.sum(axis=0) for leaf, change in pairs]
    loss, norm, examples = seen.sum(axis=0)
    ones = jnp.ones_like(examples)
    metrics = jnp.stack([loss / examples, norm / examples, ones, 0 * ones])
    return [*moved, *leaves[count:]], metrics


def _single_worlds(world: World) -> list[World]:
    """Each device of this process as a world of its own."""
    devices = world.mesh.local_devices
    return [World(0, 1, 1, Mesh(np.array([one]), (AXIS,))) for one in devices]


def _on(own: World, tree: Any) -> Any:
    """A replicated tree as the device of a single world has it; no copy."""
    (device,) = own.mesh.local_devices

    def held(leaf: Array) -> Array:
        return next(s.data for s in leaf.addressable_shards if s.device == device)

    return jax.tree.map(held, tree)


def _gathered(parts: list[list[Array]], world: World) -> list[Array]:
    """Arrays of each device here as arrays of all devices, along the first axis."""

    def together(*held: Array) -> Array:
        shape = world.size, *held[0].shape[1:]
        return jax.make_array_from_single_device_arrays(shape, world.split(0), [*held])

    return [together(*held) for held in zip(*parts, strict=True)]
