"""Evaluation over a whole split, batch by batch."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from data.dataset import load
from recipe.batch_plan import evaluation_batches
from recipe.config import Config
from recipe.errors import DuetError
from recipe.pixels import pixel_affine
from recipe.weights import Weights
from record.metrics import evaluation_metrics
from runtime.processes import Processes
from torch_impl.cache import open_cache
from torch_impl.model import build_model
from torch_impl.parallel import (
    World,
    gather_rows,
    place_batch,
    replicate,
    start,
    stop,
    sum_over_ranks,
)
from torch_impl.precision import configure
from torch_impl.step import DeviceData, eval_step, predict_step
from torch_impl.weights import load_weights


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


def predict(
    config: Config, model: nn.Module, data: DeviceData, examples: int, world: World
) -> Float[np.ndarray, "examples K"]:
    """The outputs for each example of a split, in its order: logits, or values."""
    batches = []
    for indices, _ in evaluation_batches(
        examples, config.train.global_batch_size, world.rank, world.processes
    ):
        outputs, _ = predict_step(config, model, data, place_batch(indices, world))
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
    configure(config, world.device)
    open_cache(config, world)
    dataset = world.ranks.on_every_rank(lambda: load(config.data))
    arrays = dataset.test_images, dataset.test_labels, *pixel_affine(config)
    data = DeviceData(*(replicate(array, world) for array in arrays))
    model = build_model(config)
    load_weights(model, weights, world)
    return predict(config, model, data, len(dataset.test_labels), world)
