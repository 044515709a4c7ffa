"""Evaluation over a whole split, batch by batch."""

from collections.abc import Callable
from typing import Any

from jax_impl.ema import Average
from jax_impl.parallel import World, place_batch, sum_over_ranks, synchronize
from jax_impl.step import DeviceData, TrainState
from recipe.batch_plan import evaluation_batches
from recipe.config import Config
from record.metrics import evaluation_metrics


def evaluate(
    config: Config,
    compiled_eval: Callable[..., Any],
    state: TrainState | Average,
    data: DeviceData,
    examples: int,
    world: World,
) -> dict[str, Any]:
    """The metrics over a whole split, each example counted once."""
    loss_sums, confusions = [], []
    for indices, mask in evaluation_batches(
        examples, config.train.global_batch_size, world.rank, world.processes
    ):
        loss_sum, confusion = compiled_eval(
            state.params,
            state.statistics,
            data,
            place_batch(indices, world),
            place_batch(mask, world),
        )
        # One step at a time. Training steps are serialised by their state, these are
        # not: CPU devices share a thread pool, and collectives of several steps in
        # flight may each occupy part of it while waiting for the rest, a deadlock that
        # XLA aborts.
        synchronize(loss_sum)
        loss_sums.append(loss_sum)
        confusions.append(confusion)
    return evaluation_metrics(
        sum_over_ranks(loss_sums, world), sum_over_ranks(confusions, world), examples
    )
