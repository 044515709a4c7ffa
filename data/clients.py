"""A federated client's batches of a round, planned together as a window's are."""

from typing import Any, NamedTuple

import numpy as np

from data.augment import Draws, batch_draws
from data.batches import Batches
from data.dropout import batch_keys
from recipe.clients import RoundPlan
from recipe.config import Config


class Client(NamedTuple):
    """What a client does in a round.

    Args:
      weight: of its weights in the mean over the round's clients; a number, or in JAX
        an array of no axis.
      steps: of each local step, the size of its batch, and its place among those.
      batches: size of a batch -> all of that size, each one micro-batch.
    """

    weight: Any
    steps: list[tuple[int, int]]
    batches: dict[int, Batches]


def round_clients(
    config: Config, plan: RoundPlan, step: int, device: int, devices: int
) -> list[Client]:
    """A device's clients of a round, in the order in which they train.

    There are always as many batches of a size as any client has in a round, since a
    compiled step has fixed shapes; those beyond `steps` are zeros.
    """
    chosen = plan.dealt(step, device, devices)
    # Pass by pass: all clients share its order, of which the last two are kept.
    passes = [
        [(number, plan.local_batches(client, number)) for client in chosen]
        for number in plan.passes(step)
    ]
    return [
        _client(config, plan, plan.weight(step, client), [own[at] for own in passes])
        for at, client in enumerate(chosen)
    ]


def _client(
    config: Config,
    plan: RoundPlan,
    weight: float,
    passes: list[tuple[int, list[np.ndarray]]],
) -> Client:
    """A client with its batches of each pass, which is numbered."""
    steps: list[tuple[int, int]] = []
    found: dict[int, list[Batches]] = {}
    for number, batches in passes:
        for rows in batches:
            of_size = found.setdefault(len(rows), [])
            steps.append((len(rows), len(of_size)))
            # To `batch_draws` and `batch_keys` a pass is an epoch, and also a step.
            at = config, plan, number, rows[None]
            of_size.append(Batches(rows[None], batch_draws(*at), batch_keys(*at)))
    most = plan.most_batches
    padded = {size: _stacked(of_size, most[size]) for size, of_size in found.items()}
    return Client(weight, steps, padded)


def _stacked(steps: list[Batches], count: int) -> Batches:
    """Batches of one size along a new first axis, with zeros up to a count."""

    def stack(columns: list[np.ndarray]) -> np.ndarray:
        whole = np.zeros((count, *columns[0].shape), columns[0].dtype)
        whole[: len(columns)] = columns
        return whole

    draws = [step.draws for step in steps if step.draws is not None]
    keys = [step.keys for step in steps if step.keys is not None]
    return Batches(
        stack([step.indices for step in steps]),
        Draws(*(stack(list(c)) for c in zip(*draws, strict=True))) if draws else None,
        stack(keys) if keys else None,
    )
