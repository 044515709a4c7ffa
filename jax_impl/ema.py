"""The exponential moving average of the weights, `optim.ema_decay`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Int

from jax_impl.parallel import World, place_state, replicate
from jax_impl.precision import parameter_dtype
from jax_impl.weights import load_weights, save_array, save_weights
from recipe.config import Config
from recipe.ema import averaging_rate
from recipe.weights import Weights
from record.checkpoint import Checkpoint


class Average(NamedTuple):
    """The averaged parameters and running statistics.

    Args:
      updates: included in the average.
    """

    params: nnx.State
    statistics: nnx.State
    updates: Int[Array, ""]


def build_average(
    config: Config,
    model: nnx.Module,
    weights: Weights,
    resumed: Checkpoint | None,
    world: World,
) -> Average | None:
    """The average before the next update; None where `optim.ema_decay` is.

    Before the first update it is the weights.

    Args:
      weights: of the model.
      resumed: the checkpoint; if it has no average, a new one is started.
      model: whose weights are averaged.
    """
    if config.optim.ema_decay is None:
        return None
    held = weights if resumed is None else resumed.arrays.get("average", weights)
    _, params, statistics = load_weights(model, held)
    updates = 0 if resumed is None else resumed.state.get("average_updates", 0)
    return Average(
        place_state(params, world),
        replicate(statistics, world),
        replicate(np.int32(updates), world),
    )


def move_average(
    config: Config,
    average: Average | None,
    params: nnx.State,
    statistics: nnx.State,
) -> Average | None:
    """Update the average with the model's new weights.

    Running statistics are averaged as well: the newest ones would not match the
    averaged parameters.
    """
    if config.optim.ema_decay is None or average is None:
        return None
    updates = average.updates + 1
    count = updates.astype(parameter_dtype(config))
    rate = averaging_rate(config.optim.ema_decay, count, jnp.expm1)

    def moved(average: nnx.State, newest: nnx.State) -> nnx.State:
        return jax.tree.map(lambda old, new: old + rate * (new - old), average, newest)

    return Average(
        moved(average.params, params), moved(average.statistics, statistics), updates
    )


def save_average(
    average: Average | None, world: World
) -> tuple[dict[str, Weights], dict[str, int]]:
    """As `save_optimizer_state` does. Collective."""
    if average is None:
        return {}, {}
    arrays = save_weights(average.params, average.statistics, world)
    updates = int(save_array(average.updates, world))
    return {"average": arrays}, {"average_updates": updates}
