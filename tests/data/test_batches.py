"""A window's batches: those of its steps, in one array of a fixed shape."""

import numpy as np
import pytest

from data.augment import batch_draws
from data.batches import window_batches
from data.dropout import batch_keys
from recipe.batch_plan import BatchPlan


@pytest.fixture
def config(make_config):
    return make_config(
        "experiment=cifar10_resnet9",
        "train.global_batch_size=8",
        "train.log_every_steps=4",
    )


@pytest.mark.parametrize("steps", [range(0, 4), range(5, 7)], ids=["whole", "short"])
def test_a_window_holds_each_steps_rows_and_draws(config, steps):
    plan = BatchPlan.of(config, 64)
    batches = window_batches(config, plan, steps, rank=1, processes=2)
    assert batches.indices.shape == (4, 1, 4)
    for position, step in enumerate(steps):
        rows = plan.micro_batches(step, 1, 2)
        np.testing.assert_array_equal(batches.indices[position], rows)
        draws = batch_draws(config, plan, step, rows)
        for column, own in zip(batches.draws, draws, strict=True):
            np.testing.assert_array_equal(column[position], own)


def test_a_window_of_a_resumed_run_holds_the_same_dropout_keys(make_config):
    config = make_config("model.dropout=0.5", "train.log_every_steps=4")
    plan = BatchPlan.of(config, 2000)
    whole = window_batches(config, plan, range(4, 8), 1, 2)
    resumed = window_batches(config, plan, range(6, 8), 1, 2)
    np.testing.assert_array_equal(whole.keys[2:], resumed.keys[:2])
    assert whole.keys.shape == (*whole.indices.shape, 1)
    own = batch_keys(config, plan, 6, plan.micro_batches(6, 1, 2))
    np.testing.assert_array_equal(resumed.keys[0], own)


def test_a_window_without_augmentation_or_dropout_has_its_indices_alone(make_config):
    config = make_config("experiment=digits_mlp")
    batches = window_batches(config, BatchPlan.of(config, 640), range(2), 0, 1)
    assert batches[1:] == (None, None)
