"""The state of a training: gathered from the devices, and restored on them."""

import jax
import optax
from flax import nnx

from jax_impl.ema import build_average, save_average
from jax_impl.freeze import split_frozen
from jax_impl.optim import load_optimizer_state, save_optimizer_state
from jax_impl.parallel import World, place_state, replicate, to_host
from jax_impl.step import TrainState
from jax_impl.weights import save_weights
from recipe.config import Config
from recipe.loss_scale import initial_loss_scale, loss_scale_state
from recipe.weights import Weights
from record.checkpoint import Checkpoint


def save_state(
    state: TrainState, world: World
) -> tuple[dict[str, Weights], dict[str, int | float]]:
    """A checkpoint's arrays, as in `Checkpoint`, and its scalars.

    Collective.
    """
    optimizer_state, counts = save_optimizer_state(state.optimizer, world)
    averaged, updates = save_average(state.average, world)
    weights = save_weights(state.params, state.statistics, world)
    arrays = {"weights": weights, **optimizer_state, **averaged}
    scale = jax.tree.map(lambda leaf: to_host([leaf], world)[0], state.loss_scale)
    return arrays, {**counts, **updates, **loss_scale_state(scale)}


def load_state(
    config: Config,
    model: nnx.Module,
    params: nnx.State,
    statistics: nnx.State,
    optimizer: optax.GradientTransformation,
    weights: Weights,
    resumed: Checkpoint | None,
    world: World,
) -> TrainState:
    """What training starts or resumes from, on the devices.

    Args:
      params, statistics: with the weights.
      model: to which they belong.
    """
    trained, _ = split_frozen(config, params)
    optimizer_state = optimizer.init(trained)
    if resumed is not None:
        optimizer_state = load_optimizer_state(optimizer_state, resumed)
    scale = initial_loss_scale(config, resumed.state if resumed else None)
    return TrainState(
        params=place_state(params, world),
        statistics=replicate(statistics, world),
        optimizer=place_state(optimizer_state, world),
        loss_scale=replicate(scale, world),
        average=build_average(config, model, weights, resumed, world),
    )


def save_trained(state: TrainState, world: World) -> dict[str, Weights]:
    """The weights and, if there is one, their average. Collective."""
    averaged, _ = save_average(state.average, world)
    return {"weights": save_weights(state.params, state.statistics, world), **averaged}
