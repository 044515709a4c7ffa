"""Rounds of federated averaging, `federated`: whole clients are dealt to the devices.

A device trains its clients one after the other, each from the global weights with a
fresh optimizer, and without a collective; then the ranks add up what has changed.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, algorithm 1.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.clients import Client, round_clients
from recipe.clients import RoundPlan
from recipe.config import Config
from recipe.federated import of_batch_size
from recipe.loss_scale import LossScale
from torch_impl.ema import Average
from torch_impl.metrics import StepMetrics
from torch_impl.parallel import World, place_batch
from torch_impl.step import DeviceData, one_step, train_step


def place_rounds(
    config: Config, plan: RoundPlan, steps: range, world: World
) -> tuple[list[list[Client]]]:
    """This rank's clients of each round, their batches on its device."""

    def placed(client: Client) -> Client:
        batches = {size: place_batch(b, world) for size, b in client.batches.items()}
        return client._replace(batches=batches)

    rounds = [
        list(map(placed, round_clients(config, plan, step, world.rank, world.size)))
        for step in steps
    ]
    return (rounds,)


def round_step(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: DeviceData,
    clients: list[Client],
    learning_rate: float,
    loss_scale: LossScale | None,
    world: World,
    average: Average | None = None,
    warms_up: bool = False,
) -> tuple[LossScale | None, StepMetrics]:
    """A round in place of an optimizer step: w += sum of weight_k (w_k - w).

    w are the trained parameters and the running statistics, w_k those of client k after
    its local steps. The optimizer has its initial state before and after.

    Args:
      clients: of this rank.
      loss_scale, average, warms_up: as of `train_step`; nothing here.

    Returns:
      The loss scale, and as metrics the means over all examples of the local steps of
      their losses and gradients' norms.
    """
    alone = replace(world, rank=0, processes=1, size=1)
    state = _moved(model)
    start = [tensor.clone() for tensor in state]
    changes = [torch.zeros_like(tensor) for tensor in state]
    seen = torch.zeros(3, dtype=state[0].dtype, device=state[0].device)
    configs = {n: of_batch_size(config, n) for c in clients for n in c.batches}
    for client in clients:
        for size, position in client.steps:
            _, metrics = train_step(
                configs[size],
                model,
                optimizer,
                data,
                *one_step(client.batches[size], position),
                learning_rate=learning_rate,
                loss_scale=None,
                world=alone,
            )
            seen += size * torch.stack(
                [metrics.loss, metrics.grad_norm, torch.ones_like(metrics.loss)]
            )
        add_changes(changes, state, start, client.weight)
        reset_optimizer(optimizer)
    vector = torch.cat([part.flatten() for part in (*changes, seen)])
    if world.processes > 1:
        dist.all_reduce(vector)
    *sums, total = vector.split([part.numel() for part in (*changes, seen)])
    for tensor, change in zip(state, sums, strict=True):
        tensor += change.view_as(tensor)
    # The loss is summed over the ranks later, as that of any step.
    return loss_scale, StepMetrics(seen[0] / total[2], total[1] / total[2], 1.0, False)


def _moved(model: nn.Module) -> list[Tensor]:
    """The trained parameters and running statistics, to be changed in place."""
    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    return trained + [b for b in model.buffers() if b.is_floating_point()]


@torch.no_grad()
def add_changes(
    changes: list[Tensor], state: list[Tensor], start: list[Tensor], weight: float
) -> None:
    """Add what a client has changed, times its weight; then restore the start."""
    for change, tensor, before in zip(changes, state, start, strict=True):
        change.add_(tensor - before, alpha=weight)
        tensor.copy_(before)


def reset_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """The state before a first step: zeros, of the moments and of their count."""
    state: Any
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()
