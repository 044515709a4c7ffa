"""The exponential moving average of the weights, `optim.ema_decay`."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.optim.sgd import sgd

from recipe.config import Config
from recipe.ema import averaging_rate
from recipe.weights import Weights
from record.checkpoint import Checkpoint
from torch_impl.model import build_model
from torch_impl.parallel import World, own_shards, parallelize
from torch_impl.precision import parameter_dtype
from torch_impl.weights import load_weights, save_weights


@dataclass
class Average:
    """A second model, of the averaged parameters and running statistics.

    Args:
      pairs: average and its source; updated in place; parameters, then statistics.
      updates: included in the average; counted on the device where the loss scale may
        skip some.
    """

    model: nn.Module
    pairs: list[tuple[list[Tensor], list[Tensor]]]
    updates: int | Int[Tensor, ""]


def build_average(
    config: Config,
    model: nn.Module,
    weights: Weights,
    resumed: Checkpoint | None,
    world: World,
) -> Average | None:
    """The average before the next update; None where `optim.ema_decay` is.

    Before the first update it is the weights.

    Args:
      weights: of the model.
      resumed: the checkpoint; if it has no average, a new one is started.
      model: whose weights are averaged; already parallelized.
    """
    if config.optim.ema_decay is None:
        return None
    average = build_model(config)
    held = weights if resumed is None else resumed.arrays.get("average", weights)
    load_weights(average, held, world)
    parallelize(average.requires_grad_(False), world)
    pairs = [
        (list(average.parameters()), [p.detach() for p in model.parameters()]),
        (_statistics(average), _statistics(model)),
    ]
    updates = 0 if resumed is None else int(resumed.state.get("average_updates", 0))
    return Average(average, pairs, updates)


def _statistics(model: nn.Module) -> list[Tensor]:
    """The running statistics, without the batch counters of torch's own norms."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


@torch.no_grad()
def move_average(
    config: Config, average: Average | None, skipped: Bool[Tensor, ""] | None = None
) -> None:
    """Update the average with the model's new weights.

    Running statistics are averaged as well: the newest ones would not match the
    averaged parameters.

    Args:
      skipped: whether there are none, known on the device alone.
    """
    decay = config.optim.ema_decay
    if decay is None or average is None:
        return
    pairs = [tuple(map(own_shards, pair)) for pair in average.pairs if pair[0]]
    if skipped is None:
        average.updates += 1
        rate = averaging_rate(decay, average.updates)
        for moved, newest in pairs:
            # As torch.optim.swa_utils does.
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                moved, newest, rate
            )
        return
    average.updates = torch.where(skipped, average.updates, average.updates + 1)
    count = average.updates.clamp(min=1).to(parameter_dtype(config))
    rate = averaging_rate(decay, count, torch.expm1)
    for moved, newest in pairs:
        # A step of plain SGD from the average to the weights, whose kernel reads on the
        # device whether there is one: the statistics of a skipped step may be NaN.
        gaps = torch._foreach_sub(  # pyright: ignore[reportPrivateImportUsage]
            moved, newest
        )
        plain: Any = {"weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0}
        plain |= {"nesterov": False, "maximize": False, "fused": True}
        sgd(moved, list(gaps), [], lr=rate, found_inf=skipped.float(), **plain)


def save_average(
    average: Average | None, world: World
) -> tuple[dict[str, Weights], dict[str, int]]:
    """As `save_optimizer_state` does. Collective."""
    if average is None:
        return {}, {}
    arrays = save_weights(average.model, world)
    return {"average": arrays}, {"average_updates": int(average.updates)}
