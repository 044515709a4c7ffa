"""The state of a training: gathered from the devices, and restored on them."""

import jax
import optax
from flax import nnx

from jax_impl.ema import Average, build_average, save_average
from jax_impl.freeze import split_frozen
from jax_impl.local_sgd import Local, Released, load_replica, release, save_local
from jax_impl.optim import load_optimizer_state, save_optimizer_state
from jax_impl.parallel import World, place_state, replicate, to_host
from jax_impl.step import TrainState
from jax_impl.weights import save_weights
from recipe.config import Config
from recipe.loss_scale import initial_loss_scale, loss_scale_state
from recipe.weights import Weights
from record.checkpoint import Checkpoint


def save_state(
    state: TrainState, local: Local | None, step: int, world: World
) -> tuple[dict[str, Weights], dict[str, int | float]]:
    """A checkpoint's arrays, as in `Checkpoint`, and its scalars.

    Collective.

    Args:
      step: optimizer steps done.
    """
    optimizer_state, counts = save_optimizer_state(state.optimizer, world)
    averaged, updates = save_average(state.average, world)
    weights = save_weights(state.params, state.statistics, world)
    arrays = {"weights": weights, **optimizer_state, **averaged}
    if local is not None:
        arrays = save_local(local, arrays, state, step, world)
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
    if world.local:
        given = params, statistics, optimizer_state, resumed, world
        return TrainState(*load_replica(*given), loss_scale=None)
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


def evaluated(
    state: TrainState, local: Local | None, step: int, world: World
) -> TrainState | Average | Released:
    """The weights that are the result after so many steps. Collective."""
    if local is not None:
        return release(local, state, step, world)
    return state if state.average is None else state.average


def save_trained(
    state: TrainState, local: Local | None, step: int, world: World
) -> dict[str, Weights]:
    """The weights and, if there is one, their average. Collective."""
    held = state if local is None else release(local, state, step, world)
    averaged, _ = save_average(state.average, world)
    return {"weights": save_weights(held.params, held.statistics, world), **averaged}
