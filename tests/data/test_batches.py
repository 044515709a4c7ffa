"""A window's batches: those of its steps, in one array of a fixed shape."""

import numpy as np
import pytest

from data.augment import batch_draws
from data.batches import window_batches
from recipe.batch_plan import BatchPlan


@pytest.fixture
def config(make_config):
    return make_config(
        "experiment=cifar10_resnet9", "train.global_batch=8", "train.window_steps=4"
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


def test_a_window_without_augmentation_has_no_draws(make_config):
    config = make_config("experiment=digits_mlp")
    assert window_batches(config, BatchPlan.of(config, 640), range(2), 0, 1)[1] is None
