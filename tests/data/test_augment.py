"""Augmentation is decided by (seed, epoch, example) and nothing else."""

import numpy as np
import pytest

from data.augment import batch_draws, epoch_draw
from recipe.batch_plan import BatchPlan


@pytest.fixture
def config(make_config):
    return make_config("data.augment.pad_crop=4", "data.augment.flip=true")


def test_an_examples_draws_do_not_depend_on_its_batch_or_rank(config):
    plan = BatchPlan(seed=0, examples=100, global_batch_size=20, steps=10)
    whole = batch_draws(config, plan, 6, plan.indices(6))
    parts = [batch_draws(config, plan, 6, plan.indices(6, r, 4)) for r in range(4)]
    for column, *pieces in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(column, np.concatenate(pieces))


def test_epochs_seeds_and_kinds_draw_other_numbers():
    first = epoch_draw(0, "top", 0, 500, 9)
    for other in (0, "top", 1), (1, "top", 0), (0, "left", 0):
        assert (first != epoch_draw(*other, 500, 9)).mean() > 0.8


@pytest.mark.parametrize("stop", [1, 2, 9, 32])
def test_draws_are_even_over_all_that_may_be_drawn(stop):
    draws = epoch_draw(0, "top", 0, 90_000, stop)
    share = np.bincount(draws, minlength=stop) / len(draws)
    assert len(share) == stop
    # Five standard deviations of a share.
    assert abs(share - 1 / stop).max() <= 5 * np.sqrt(1 / stop / len(draws))


KINDS = {
    "pad_crop=4": {"top", "left"},
    "flip=true": {"flip"},
    "cutout=8": {"cut_top", "cut_left"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_augmentation_draws_alone_what_it_draws_among_all(
    make_config, kind
):
    plan = BatchPlan(seed=0, examples=100, global_batch_size=100, steps=10)
    alone, among = (
        batch_draws(
            make_config(*(f"data.augment.{key}" for key in keys)),
            plan,
            3,
            plan.indices(3),
        )
        for keys in ([kind], KINDS)
    )
    for field in alone._fields:
        expected = getattr(among, field) * (field in KINDS[kind])
        np.testing.assert_array_equal(getattr(alone, field), expected)
        assert getattr(among, field).any()


def test_nothing_is_drawn_where_nothing_is_augmented(make_config):
    plan = BatchPlan(seed=0, examples=100, global_batch_size=20, steps=10)
    assert batch_draws(make_config(), plan, 0, plan.indices(0)) is None
