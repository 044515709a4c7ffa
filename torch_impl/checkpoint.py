"""The state of a training: gathered from the devices, and restored on them."""

import torch
from torch import nn

from recipe.config import Config
from recipe.loss_scale import LossScale, initial_loss_scale, loss_scale_state
from recipe.weights import Weights
from record.checkpoint import Checkpoint
from torch_impl.ema import Average, build_average, save_average
from torch_impl.local_sgd import Local, load_replica, release, save_local
from torch_impl.optim import load_optimizer_state, save_optimizer_state
from torch_impl.parallel import World, replicate, to_host
from torch_impl.weights import save_weights


def save_state(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    loss_scale: LossScale | None,
    local: Local | None,
    step: int,
    world: World,
) -> tuple[dict[str, Weights], dict[str, int | float]]:
    """A checkpoint's arrays, as in `Checkpoint`, and its scalars.

    Collective.

    Args:
      step: optimizer steps done.
    """
    optimizer_state, counts = save_optimizer_state(config, model, optimizer, world)
    averaged, updates = save_average(average, world)
    arrays = {"weights": save_weights(model, world), **optimizer_state, **averaged}
    if local is not None:
        arrays = save_local(local, arrays, step, world)
    if loss_scale is not None:
        loss_scale = LossScale(*(to_host([leaf], world)[0] for leaf in loss_scale))
    return arrays, {**counts, **updates, **loss_scale_state(loss_scale)}


def load_state(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: Weights,
    resumed: Checkpoint | None,
    world: World,
) -> tuple[Average | None, LossScale | None]:
    """What training starts or resumes from, besides the weights. Collective.

    The state of the fresh optimizer is set in place; under local SGD so is this rank's
    replica.

    Args:
      weights: of the model.

    Returns:
      The weights' average and the loss scale, where the recipe has them.
    """
    if resumed is not None and world.local:
        load_replica(config, model, optimizer, resumed, world)
    elif resumed is not None:
        load_optimizer_state(config, model, optimizer, resumed, world)
    average = build_average(config, model, weights, resumed, world)
    scale = initial_loss_scale(config, resumed.state if resumed else None)
    return average, replicate(scale, world)


def evaluated(
    model: nn.Module,
    average: Average | None,
    local: Local | None,
    step: int,
    world: World,
) -> nn.Module:
    """The model whose weights are the result after so many steps. Collective."""
    if local is not None:
        return release(local, step, world)
    return model if average is None else average.model


def save_trained(
    model: nn.Module,
    average: Average | None,
    local: Local | None,
    step: int,
    world: World,
) -> dict[str, Weights]:
    """The weights and, if there is one, their average. Collective."""
    if local is not None:
        model = release(local, step, world)
    averaged, _ = save_average(average, world)
    return {"weights": save_weights(model, world), **averaged}
