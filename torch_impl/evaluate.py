"""Evaluation over a whole split, batch by batch."""

from typing import Any

from torch import nn

from recipe.batch_plan import evaluation_batches
from recipe.config import Config
from record.metrics import evaluation_metrics
from torch_impl.parallel import World, place_batch, sum_over_ranks
from torch_impl.step import DeviceData, eval_step


def evaluate(
    config: Config, model: nn.Module, data: DeviceData, examples: int, world: World
) -> dict[str, Any]:
    """The metrics over a whole split, each example counted once."""
    loss_sums, confusions = [], []
    for indices, mask in evaluation_batches(
        examples, config.train.global_batch_size, world.rank, world.processes
    ):
        loss_sum, confusion = eval_step(
            config, model, data, place_batch(indices, world), place_batch(mask, world)
        )
        loss_sums.append(loss_sum)
        confusions.append(confusion)
    return evaluation_metrics(
        sum_over_ranks(loss_sums, world), sum_over_ranks(confusions, world), examples
    )
