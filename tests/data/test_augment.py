"""Augmentation is decided by (seed, epoch, example) and nothing else."""

import numpy as np
import pytest

from data.augment import batch_draws, epoch_draws
from recipe.batch_plan import BatchPlan


@pytest.fixture
def config(make_config):
    return make_config("data.augment.pad_crop=4", "data.augment.flip=true")


def test_an_examples_draws_do_not_depend_on_its_batch_or_rank(config):
    plan = BatchPlan(seed=0, examples=100, global_batch=20, steps=10)
    whole = batch_draws(config, plan, 6, plan.indices(6))
    parts = [batch_draws(config, plan, 6, plan.indices(6, r, 4)) for r in range(4)]
    for column, *pieces in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(column, np.concatenate(pieces))


def test_epochs_and_seeds_draw_anew():
    first = epoch_draws(0, 0, 500, 4, 32, 32)
    for other in epoch_draws(0, 1, 500, 4, 32, 32), epoch_draws(1, 0, 500, 4, 32, 32):
        for column, another in zip(first, other, strict=True):
            assert (column != another).mean() > 0.3


def test_draws_are_even_over_all_that_may_be_drawn():
    draws = epoch_draws(0, 0, 90_000, 4, 32, 24)
    for column, count in zip(draws, (9, 9, 2, 32, 24), strict=True):
        share = np.bincount(column.astype(int), minlength=count) / len(column)
        assert len(share) == count
        # Five standard deviations of a share.
        assert abs(share - 1 / count).max() < 5 * np.sqrt(1 / count / len(column))


def test_columns_are_drawn_apart_from_each_other():
    draws = epoch_draws(0, 0, 5000, 4, 9, 9)
    assert (draws.top == draws.left).mean() < 0.2
    wider = epoch_draws(0, 0, 5000, 4, 9, 30)
    np.testing.assert_array_equal(draws.cut_top, wider.cut_top)


def test_nothing_is_drawn_where_nothing_is_augmented(make_config):
    plan = BatchPlan(seed=0, examples=100, global_batch=20, steps=10)
    assert batch_draws(make_config(), plan, 0, plan.indices(0)) is None
