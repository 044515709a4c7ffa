"""Local SGD: replicas that train alone, and average their weights in rounds.

`recipe/local_rounds.py` says after which steps, which leaves, and what comes of it.
Here is what a rank keeps for that beside its replica, and the collectives: one
all-reduce for a round, of a model that no wrapper of PyTorch's has touched.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from recipe.config import Config
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
from torch_impl.exchange import mean_over_devices
from torch_impl.model import build_model
from torch_impl.optim import load_optimizer_state
from torch_impl.parallel import World, gather_replicas, replicate
from torch_impl.weights import (
    canonical_names,
    load_array,
    load_weights,
    save_array,
    save_weights,
)


@dataclass
class Local:
    """What a rank keeps beside its replica.

    Args:
      leaves: canonical name -> the replica's own tensor, of all that it holds.
      fragments: canonical names of what has rounds together.
      outer: canonical name -> what the last round left, the same on every rank.
      momentum: of the outer optimizer; empty without.
      model: of the weights that are evaluated; filled by `release`.
      released: the step after which it was.
    """

    config: Config
    rounds: Rounds
    leaves: dict[str, Tensor]
    fragments: list[list[str]]
    outer: dict[str, Tensor]
    momentum: dict[str, Tensor]
    model: nn.Module
    released: int | None = None


def build_local(
    config: Config,
    model: nn.Module,
    weights: Weights,
    resumed: Checkpoint | None,
    world: World,
) -> Local | None:
    """The state of the rounds before the next step; None but under local SGD.

    Args:
      model: the replica, which has its weights.
      weights: those that were evaluated last, or are to start from.
    """
    if not world.local:
        return None
    released = build_model(config)
    load_weights(released, weights, world)
    leaves, fragments = _leaves(model), fragment_leaves(config)
    outer = {name: leaves[name].clone() for names in fragments for name in names}
    momentum = {}
    if config.parallel.outer.momentum:
        trained = [name for name in outer if is_trained(name)]
        momentum = {name: torch.zeros_like(outer[name]) for name in trained}
    if resumed is not None:
        names = _torch_names(model)
        for kind, held in (OUTER, outer), (MOMENTUM, momentum):
            for name, tensor in held.items():
                array = resumed.arrays[kind][name]
                tensor.copy_(load_array(names[name], name, array, world))
    rounds = Rounds.of(config.parallel)
    parts = leaves, fragments, outer, momentum
    return Local(config, rounds, *parts, released.requires_grad_(False))


def load_replica(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    resumed: Checkpoint,
    world: World,
) -> None:
    """Restore this rank's replica and its optimizer's state, in place."""
    arrays = {
        kind.removeprefix(REPLICAS): {
            name: rows[world.rank] for name, rows in of.items()
        }
        for kind, of in resumed.arrays.items()
        if kind.startswith(REPLICAS)
    }
    names = _torch_names(model)
    for name, leaf in _leaves(model).items():
        leaf.copy_(load_array(names[name], name, arrays["weights"][name], world))
    own = replace(resumed, arrays=arrays)
    load_optimizer_state(config, model, optimizer, own, world)


@torch.no_grad()
def finish_step(
    local: Local, step: int, world: World
) -> list[tuple[int, int, Float[Tensor, " measures"]]]:
    """What follows so many steps: rounds, and the arrival of earlier ones' results.

    Collective. The host waits for nothing but the exchange.

    Returns:
      The step, the fragment and `average_fragment`'s measures of each round.
    """
    rounds, met = local.rounds, []
    if step == rounds.warmup_steps:
        local.outer = {name: local.leaves[name].clone() for name in local.outer}
    for fragment in rounds.due(step):
        outer, momentum, measures = average_fragment(local, fragment, world)
        local.outer |= outer
        local.momentum |= momentum
        met.append((step, fragment, measures))
    for fragment in rounds.arriving(step):
        for name in local.fragments[fragment]:
            own, result = local.leaves[name], local.outer[name]
            own.copy_(mixed(local.config.parallel.mix, own, result))
    return met


def average_fragment(
    local: Local, fragment: int, world: World
) -> tuple[dict[str, Tensor], dict[str, Tensor], Float[Tensor, " measures"]]:
    """A fragment's outer weights and momentum after a round. Collective.

    Also returns two measures: the 2-norm of its pseudo-gradient, and the squared
    distance of this replica's parameters to the average.
    """
    own = {name: local.leaves[name] for name in local.fragments[fragment]}
    means = dict(zip(own, mean_over_devices(list(own.values()), world), strict=True))
    outer = after_round(local.config.parallel.outer, local.outer, means, local.momentum)
    trained = [name for name in own if is_trained(name)]
    gradient = _square([local.outer[name] - means[name] for name in trained], means)
    distance = _square([own[name] - means[name] for name in trained], means)
    return *outer, torch.stack([gradient.sqrt(), distance])


@torch.no_grad()
def release(local: Local, step: int, world: World) -> nn.Module:
    """The model as it would be if the run ended now, which is evaluated and saved.

    What no round has just settled is averaged once more, on copies. Collective.
    """
    if local.released == step:
        return local.model
    found = dict(local.leaves)
    for fragment, names in enumerate(local.fragments):
        if step <= local.rounds.warmup_steps:
            break  # replicas have the same parameters, as under dp
        if fragment in local.rounds.settled(step):
            found |= {name: local.outer[name] for name in names}
        else:
            found |= average_fragment(local, fragment, world)[0]
    for name, leaf in _leaves(local.model).items():
        leaf.copy_(found[name])
    local.released = step
    return local.model


def save_local(
    local: Local, own: dict[str, Weights], step: int, world: World
) -> dict[str, Weights]:
    """A checkpoint's arrays, as in `Checkpoint`. Collective.

    Args:
      own: this replica's weights and optimizer state: kind -> canonical name -> array.
    """
    arrays = {"weights": save_weights(release(local, step, world), world)}
    names = _torch_names(local.model)
    for kind, held in (OUTER, local.outer), (MOMENTUM, local.momentum):
        saved = {n: save_array(names[n], n, t, world) for n, t in held.items()}
        arrays |= {kind: saved} if saved else {}
    for kind, held in own.items():
        flat = np.concatenate([array.ravel() for array in held.values()])
        (rows,) = gather_replicas([replicate(flat, world)], world)
        ends = np.cumsum([array.size for array in held.values()])[:-1]
        arrays[f"{REPLICAS}{kind}"] = {
            name: part.reshape(len(rows), *array.shape)
            for (name, array), part in zip(
                held.items(), np.split(rows, ends, axis=1), strict=True
            )
        }
    return arrays


def gather_rounds(
    met: list[tuple[int, int, Float[Tensor, " measures"]]], world: World
) -> list[tuple[int, int, Float[np.ndarray, "replicas measures"]]]:
    """The rounds of a window on the host, as `Recorder.window` takes them.

    Collective.
    """
    if not met:
        return []
    found = gather_replicas([measures for _, _, measures in met], world)
    return [(step, at, rows) for (step, at, _), rows in zip(met, found, strict=True)]


def _leaves(model: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> tensor, to be changed in place, of all that a model holds."""
    held = model.state_dict()
    return {name: held[of] for name, of in _torch_names(model).items()}


def _torch_names(model: nn.Module) -> dict[str, str]:
    """Canonical name of each leaf -> torch's first."""
    names = reversed(canonical_names(model).items())
    return {canonical: name for name, canonical in names}


def _square(tensors: list[Tensor], of: dict[str, Tensor]) -> Float[Tensor, ""]:
    """The sum of all squares; zero, of the dtype of others, without any tensor."""
    zero = next(iter(of.values())).new_zeros(())
    return sum((tensor.square().sum() for tensor in tensors), start=zero)
