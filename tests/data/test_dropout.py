"""Dropout is decided by (seed, layer, epoch, example) and nothing else."""

import numpy as np
import pytest

from data.dropout import batch_keys, epoch_keys
from recipe.batch_plan import BatchPlan
from recipe.dropout import dropout_layers, least_kept

PLAN = BatchPlan(seed=0, examples=100, global_batch_size=20, steps=10)


def test_an_examples_keys_do_not_depend_on_its_batch_or_rank(make_config):
    config = make_config("model.dropout=0.5", "model.hidden=[8,4]")
    whole = batch_keys(config, PLAN, 6, PLAN.indices(6))
    parts = [batch_keys(config, PLAN, 6, PLAN.indices(6, r, 4)) for r in range(4)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    micro = PLAN.indices(6).reshape(5, 4)
    np.testing.assert_array_equal(
        whole.reshape(5, 4, 2), batch_keys(config, PLAN, 6, micro)
    )


def test_epochs_seeds_and_layers_draw_other_numbers():
    first = epoch_keys(0, ("dense.0", "dense.1"), 0, 500)
    assert (first >= 0).all()
    others = [
        epoch_keys(0, ("dense.0", "dense.1"), 1, 500),
        epoch_keys(1, ("dense.0", "dense.1"), 0, 500),
        first[:, ::-1],
    ]
    for other in others:
        assert (first != other).mean() > 0.99


def test_another_block_moves_no_other_blocks_keys(make_config):
    given = "experiment=cifar10_vit_tiny", "model.dropout=0.1"
    few, many = (make_config(*given, f"model.blocks={n}") for n in (1, 3))
    assert dropout_layers(few) == ("block.0.attention.out", "block.0.mlp.1")
    one, other = (batch_keys(c, PLAN, 0, PLAN.indices(0)) for c in (few, many))
    np.testing.assert_array_equal(one, other[:, :2])


def test_without_dropout_there_are_no_keys(make_config):
    assert batch_keys(make_config(), PLAN, 0, PLAN.indices(0)) is None


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.1, 0.5, 1 - 1e-16])
def test_the_threshold_is_a_word_that_leaves_out_the_rate(rate):
    assert 0 <= least_kept(rate) < 2**32
    assert abs(least_kept(rate) / 2**32 - rate) < 2**-31
