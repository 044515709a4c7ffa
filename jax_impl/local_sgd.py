"""Local SGD: replicas that train alone, and average their weights in rounds.

`recipe/local_rounds.py` says after which steps, which leaves, and what comes of it. A
`TrainState` has a first axis of replicas here, which is split over the devices, and the
step is mapped over it without any collective; rounds are compiled functions of their
own, called between steps.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from jax_impl.exchange import mean_over_devices
from jax_impl.optim import load_optimizer_state
from jax_impl.parallel import (
    AXIS,
    World,
    gather_replicas,
    limit_in_flight,
    replicate,
)
from jax_impl.weights import canonical_name, save_array
from recipe.config import Config
from recipe.execution import OuterConfig
from recipe.local_rounds import (
    MOMENTUM,
    OUTER,
    REPLICAS,
    Rounds,
    after_round,
    fragment_leaves,
    mixed,
)
from recipe.weights import Weights, is_trained
from record.checkpoint import Checkpoint

Leaves = dict[str, Array]  # by canonical name


class Released(NamedTuple):
    """The parameters and statistics that are evaluated, whole on every device."""

    params: nnx.State
    statistics: nnx.State


@dataclass
class Local:
    """What a process keeps beside its replicas.

    Args:
      fragments: canonical names of what has rounds together.
      outer: canonical name -> what the last round left, the same on every device.
      momentum: of the outer optimizer; empty without.
      averages, arrivals: the compiled functions of each fragment.
      released: the step of the last `release`, and what that was.
    """

    config: Config
    rounds: Rounds
    fragments: list[list[str]]
    outer: Leaves
    momentum: Leaves
    averages: list[Callable[..., Any]] = field(default_factory=list)
    arrivals: list[Callable[..., Any]] = field(default_factory=list)
    released: tuple[int, Released] | None = None


def build_local(
    config: Config,
    weights: Weights,
    resumed: Checkpoint | None,
    world: World,
) -> Local | None:
    """The state of the rounds before the next step; None but under local SGD.

    Args:
      weights: to start from.
    """
    if not world.local:
        return None
    fragments = fragment_leaves(config)
    outer = {name: weights[name] for names in fragments for name in names}
    momentum = {}
    if config.parallel.outer.momentum:
        trained = [name for name in outer if is_trained(name)]
        momentum = {name: np.zeros_like(outer[name]) for name in trained}
    if resumed is not None:
        outer, momentum = resumed.arrays[OUTER], resumed.arrays.get(MOMENTUM, {})
    placed = replicate(outer, world), replicate(momentum, world)
    return Local(config, Rounds.of(config.parallel), fragments, *placed)


def load_replica(
    params: nnx.State,
    statistics: nnx.State,
    optimizer_state: optax.OptState,
    resumed: Checkpoint | None,
    world: World,
) -> tuple[Any, Any, Any]:
    """The three with their axis of replicas, each on its device.

    Args:
      params, statistics, optimizer_state: of a fresh replica.
      resumed: the checkpoint; None: all replicas start from the given ones.
    """
    count = world.size

    def stacked(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, (count, *np.shape(leaf))), tree
        )

    trees = stacked((params, statistics, optimizer_state))
    if resumed is not None:
        arrays = {
            kind.removeprefix(REPLICAS): held
            for kind, held in resumed.arrays.items()
            if kind.startswith(REPLICAS)
        }
        own = replace(resumed, arrays=arrays)
        optimizer_state = load_optimizer_state(optimizer_state, own)
        trees = (
            _with(params, arrays["weights"]),
            _with(statistics, arrays["weights"]),
            jax.tree.map(
                lambda old, new: np.broadcast_to(new, np.shape(old)),
                trees[2],
                optimizer_state,
            ),
        )
    rows = NamedSharding(world.mesh, PartitionSpec(AXIS))
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(
            np.shape(leaf), rows, lambda index: np.asarray(leaf)[index]
        ),
        trees,
    )


def one_replica(step: Callable[..., Any]) -> Callable[..., Any]:
    """A window's step on one device's replica, without its axis of replicas."""

    def of_a_replica(leaves: list[Array], *others: Any) -> tuple[list[Array], Array]:
        leaves, metrics = step([leaf[0] for leaf in leaves], *others)
        return [leaf[None] for leaf in leaves], metrics[None]

    return of_a_replica


def compile_rounds(local: Local, state: Any, world: World) -> tuple[Released, float]:
    """Compile every fragment's round and arrival.

    Returns:
      The shapes of what is evaluated, and the seconds that compiling took.
    """
    begin, leaves = time.perf_counter(), _leaves(state)
    parallel, rows, whole = local.config.parallel, PartitionSpec(AXIS), PartitionSpec()
    for names in local.fragments:
        own = {name: leaves[name] for name in names}
        outer = {name: local.outer[name] for name in names}
        momentum = {n: local.momentum[n] for n in names if n in local.momentum}
        local.averages.append(
            _compiled(
                partial(average_fragment, parallel.outer),
                (own, outer, momentum),
                (rows, whole, whole),
                (whole, whole, rows),
                world,
            )
        )
        local.arrivals.append(
            _compiled(
                partial(_arrive, parallel.mix), (own, outer), (rows, whole), rows, world
            )
        )
    released = jax.tree.map(
        lambda rows: jax.ShapeDtypeStruct(
            rows.shape[1:], rows.dtype, sharding=world.replicated
        ),
        Released(state.params, state.statistics),
    )
    return released, time.perf_counter() - begin


def finish_step(
    local: Local, state: Any, step: int, world: World
) -> tuple[Any, list[tuple[int, int, Float[Array, "replicas measures"]]]]:
    """What follows so many steps: rounds, and the arrival of earlier ones' results.

    Returns:
      The state; and the step, the fragment and `average_fragment`'s measures of each
      round.
    """
    rounds, met, leaves = local.rounds, [], _leaves(state)
    if step == rounds.warmup_steps:
        local.outer = _first({name: leaves[name] for name in local.outer}, world)
    for fragment in rounds.due(step):
        outer, momentum, measures = _average(local, leaves, fragment)
        local.outer |= outer
        local.momentum |= momentum
        met.append((step, fragment, measures))
    for fragment in rounds.arriving(step):
        names = local.fragments[fragment]
        own, outer = (
            {name: of[name] for name in names} for of in (leaves, local.outer)
        )
        leaves |= local.arrivals[fragment](own, outer)
    params, statistics = (_with(s, leaves) for s in (state.params, state.statistics))
    return state._replace(params=params, statistics=statistics), met


def average_fragment(
    outer: OuterConfig, own: Leaves, held: Leaves, momentum: Leaves
) -> tuple[Leaves, Leaves, Float[Array, "1 measures"]]:
    """A fragment's outer weights and momentum after a round, on each device.

    Also returns two measures: the 2-norm of its pseudo-gradient, and the squared
    distance of this replica's parameters to the average.

    Args:
      own: with an axis of replicas, of one.
    """
    own = {name: rows[0] for name, rows in own.items()}
    means = mean_over_devices(own)
    new, moved = after_round(outer, held, means, momentum)
    trained = [name for name in own if is_trained(name)]
    gradient = _square([held[name] - means[name] for name in trained], means)
    distance = _square([own[name] - means[name] for name in trained], means)
    return new, moved, jnp.stack([jnp.sqrt(gradient), distance])[None]


def release(local: Local, state: Any, step: int, world: World) -> Released:
    """The model as it would be if the run ended now, which is evaluated and saved.

    What no round has just settled is averaged once more, on copies.
    """
    if local.released is not None and local.released[0] == step:
        return local.released[1]
    found, leaves = {}, _leaves(state)
    for fragment, names in enumerate(local.fragments):
        if step <= local.rounds.warmup_steps:
            break  # replicas have the same parameters, as under dp
        if fragment in local.rounds.settled(step):
            found |= {name: local.outer[name] for name in names}
        else:
            found |= _average(local, leaves, fragment)[0]
    found |= _first({n: a for n, a in leaves.items() if n not in found}, world)
    params, statistics = (_with(s, found) for s in (state.params, state.statistics))
    local.released = step, Released(params, statistics)
    return local.released[1]


def save_local(
    local: Local, own: dict[str, Weights], state: Any, step: int, world: World
) -> dict[str, Weights]:
    """A checkpoint's arrays, as in `Checkpoint`. Collective.

    Args:
      own: the replicas' weights and optimizer state: kind -> canonical name -> array.
    """
    released = release(local, state, step, world)
    found = {"weights": _leaves(released), OUTER: local.outer, MOMENTUM: local.momentum}
    arrays = {
        kind: {name: save_array(array, world) for name, array in held.items()}
        for kind, held in found.items()
        if held
    }
    return arrays | {f"{REPLICAS}{kind}": held for kind, held in own.items()}


def gather_rounds(
    met: list[tuple[int, int, Float[Array, "replicas measures"]]], world: World
) -> list[tuple[int, int, Float[np.ndarray, "replicas measures"]]]:
    """The rounds of a window on the host, as `Recorder.window` takes them.

    Collective.
    """
    if not met:
        return []
    found = gather_replicas([measures for _, _, measures in met], world)
    return [(step, at, rows) for (step, at, _), rows in zip(met, found, strict=True)]


def _average(
    local: Local, leaves: Leaves, fragment: int
) -> tuple[Leaves, Leaves, Float[Array, "replicas measures"]]:
    names = local.fragments[fragment]
    own, outer = ({name: of[name] for name in names} for of in (leaves, local.outer))
    momentum = {n: local.momentum[n] for n in names if n in local.momentum}
    return local.averages[fragment](own, outer, momentum)


def _arrive(mix: float, own: Leaves, outer: Leaves) -> Leaves:
    return {name: mixed(mix, rows, outer[name][None]) for name, rows in own.items()}


def _compiled(
    function: Callable[..., Any],
    example: tuple[Any, ...],
    in_specs: Any,
    out_specs: Any,
    world: World,
) -> Callable[..., Any]:
    """A function of each device's arrays, which may sum over them."""
    mapped = jax.shard_map(
        function,
        mesh=world.mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,
    )
    # Awaited each time where CPU devices share threads: its sum waits for all of them.
    return limit_in_flight(jax.jit(mapped).lower(*example).compile(), world, most=1)


def _first(leaves: Leaves, world: World) -> Leaves:
    """The first replica's, whole on every device. Collective."""
    return _taking_first(world.replicated)(leaves) if leaves else {}


@cache
def _taking_first(sharding: NamedSharding) -> Callable[[Leaves], Leaves]:
    return jax.jit(
        lambda leaves: {name: rows[0] for name, rows in leaves.items()},
        out_shardings=sharding,
    )


def _leaves(state: Any) -> Leaves:
    """Canonical name -> array of all parameters and statistics."""
    return {
        canonical_name(path, variable): variable.get_value()
        for of in (state.params, state.statistics)
        for path, variable in nnx.to_flat_state(of)
    }


def _with(state: nnx.State, leaves: Any) -> nnx.State:
    """The state with other arrays, by canonical name."""
    return nnx.from_flat_state(
        [
            (path, variable.replace(leaves[canonical_name(path, variable)]))
            for path, variable in nnx.to_flat_state(state)
        ]
    )


def _square(arrays: list[Array], of: Leaves) -> Float[Array, ""]:
    """The sum of all squares; zero, of the dtype of others, without any array."""
    zero = jnp.zeros((), next(iter(of.values())).dtype)
    return sum((jnp.square(array).sum() for array in arrays), start=zero)
