"""Evaluation over a whole split, batch by batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float

from data.dataset import load
from jax_impl.cache import open_cache
from jax_impl.ema import Average
from jax_impl.local_sgd import Released
from jax_impl.model import build_model
from jax_impl.parallel import (
    World,
    gather_rows,
    parallelize,
    place_batch,
    place_state,
    replicate,
    start,
    stop,
    sum_over_ranks,
    synchronize,
)
from jax_impl.precision import configure
from jax_impl.step import DeviceData, TrainState, predict_step
from jax_impl.weights import load_weights
from recipe.batch_plan import evaluation_batches
from recipe.config import Config
from recipe.errors import DuetError
from recipe.pixels import pixel_affine
from recipe.weights import Weights
from record.metrics import evaluation_metrics
from runtime.processes import Processes


def evaluate(
    config: Config,
    compiled_eval: Callable[..., Any],
    state: TrainState | Average | Released,
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


def predict(
    config: Config,
    compiled_predict: Callable[..., Any],
    params: nnx.State,
    statistics: nnx.State,
    data: DeviceData,
    examples: int,
    world: World,
) -> Float[np.ndarray, "examples K"]:
    """The outputs for each example of a split, in its order: logits, or values."""
    batches = []
    for indices, _ in evaluation_batches(
        examples, config.train.global_batch_size, world.rank, world.processes
    ):
        rows = place_batch(indices, world)
        outputs, _ = compiled_predict(params, statistics, data, rows)
        synchronize(outputs)  # as in `evaluate`
        batches.append(outputs)
    return gather_rows(batches, world)[:examples]  # the last batch is padded


def run(
    config: Config, processes: Processes, weights: Weights
) -> Float[np.ndarray, "examples K"]:
    """The outputs of these weights for the test set; called by every process.

    The dataset is acquired already.

    Raises:
      DuetError: what was wrong and what to do, on every rank.
    """
    world = start(config, processes)
    try:
        outputs = predict_test_set(config, world, weights)
    except DuetError as error:
        stop(world)
        raise error.with_traceback(None) from None
    stop(world)
    return outputs


def predict_test_set(
    config: Config, world: World, weights: Weights
) -> Float[np.ndarray, "examples K"]:
    """The same, once its processes are connected."""
    configure(config, world.mesh.local_devices[0])
    open_cache(config, world)
    dataset = world.ranks.on_every_rank(lambda: load(config.data))
    arrays = dataset.test_images, dataset.test_labels, *pixel_affine(config)
    data = DeviceData(*replicate(arrays, world))
    graphdef, params, statistics = load_weights(build_model(config), weights)
    states = place_state(params, world), replicate(statistics, world)
    rows = np.zeros(config.train.global_batch_size // world.processes, np.int32)
    compiled_predict, _ = parallelize(
        partial(predict_step, config, graphdef),
        (*states, data, place_batch(rows, world)),
        world,
        donate=False,
    )
    examples = len(dataset.test_labels)
    return predict(config, compiled_predict, *states, data, examples, world)
