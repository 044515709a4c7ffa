"""Which example is seen when depends on the seed and the epoch, and on nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from recipe.batch_plan import BatchPlan, epoch_order, evaluation_batches, rank_slice
from recipe.errors import ConfigError

WORLDS = [1, 2, 4, 8]
EPOCH = 6  # steps, after which 7 examples are left over
PLAN = BatchPlan(seed=3, examples=103, global_batch_size=16, steps=15)


def rows(plan: BatchPlan, steps: range) -> list[int]:
    return np.concatenate([plan.indices(step) for step in steps]).tolist()


def test_every_epoch_is_a_permutation_of_its_own():
    orders = [epoch_order(3, epoch, 103).tolist() for epoch in range(4)]
    assert [sorted(order) for order in orders] == [list(range(103))] * 4
    assert len(set(map(tuple, orders))) == 4


def test_the_order_never_changes_between_versions():
    assert epoch_order(0, 0, 60_000)[:5].tolist() == [17203, 23382, 7325, 34605, 53224]
    assert epoch_order(0, 1, 60_000)[:5].tolist() == [38504, 54725, 39222, 41799, 16376]
    assert epoch_order(1, 0, 60_000)[:5].tolist() == [56490, 45890, 54506, 47272, 56916]


def test_training_takes_each_epochs_order_and_drops_its_incomplete_last_batch():
    assert PLAN.steps_per_epoch == EPOCH
    assert rows(PLAN, range(EPOCH)) == epoch_order(3, 0, 103)[:96].tolist()
    assert rows(PLAN, range(EPOCH, 12)) == epoch_order(3, 1, 103)[:96].tolist()


def test_the_order_depends_on_neither_batch_nor_length_nor_what_was_asked_before():
    first = rows(PLAN, range(EPOCH))
    assert rows(replace(PLAN, global_batch_size=8), range(12)) == first
    assert rows(replace(PLAN, steps=999), range(EPOCH)) == first
    rows(PLAN, range(30))  # the cache now holds other epochs
    assert rows(PLAN, range(EPOCH)) == first


@pytest.mark.parametrize("grad_accum_steps", [1, 4])
def test_a_control_sums_the_same_micro_batches_in_another_order(grad_accum_steps):
    plans = [
        replace(PLAN, grad_accum_steps=grad_accum_steps, perturb_seed=seed)
        for seed in (0, 1, 2)
    ]
    plain, control, other = (
        np.stack([plan.micro_batches(step) for step in range(EPOCH)]) for plan in plans
    )
    assert (np.sort(control) == np.sort(plain)).all()
    assert len({batches.tobytes() for batches in (plain, control, other)}) == 3
    # A trace is compared example by example.
    assert rows(plans[1], range(EPOCH)) == rows(plans[0], range(EPOCH))


def test_the_order_depends_on_the_seed():
    assert rows(replace(PLAN, seed=4), range(EPOCH)) != rows(PLAN, range(EPOCH))


def test_an_order_once_drawn_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        PLAN.indices(0)[0] = 1


@pytest.mark.parametrize("world_size", WORLDS)
def test_the_ranks_slices_joined_are_the_global_batch(world_size):
    for step in range(PLAN.steps):
        shares = [PLAN.indices(step, rank, world_size) for rank in range(world_size)]
        assert {len(share) for share in shares} == {16 // world_size}
        assert np.concatenate(shares).tolist() == PLAN.indices(step).tolist()


@pytest.mark.parametrize("world_size", WORLDS[1:])
def test_interleaved_ranks_would_be_noticed(world_size):
    batch = PLAN.indices(0)
    interleaved = [batch[rank::world_size] for rank in range(world_size)]
    assert np.concatenate(interleaved).tolist() != batch.tolist()


@pytest.mark.parametrize("log_every_steps", [1, 4, EPOCH, 100])
@pytest.mark.parametrize("steps", [1, 5, EPOCH, 12, 15])
def test_windows_cover_every_step_once_and_never_cross_an_epoch(steps, log_every_steps):
    windows = replace(PLAN, steps=steps).windows(log_every_steps, 1)
    assert [step for w in windows for step in w.steps] == list(range(steps))
    for window in windows:
        assert 1 <= len(window.steps) <= log_every_steps
        assert {step // EPOCH for step in window.steps} == {window.epoch}
    following = [window.following for window in windows]
    assert following == [*(window.steps for window in windows[1:]), range(0)]


def test_without_evaluations_windows_are_equal_whatever_an_epoch_has():
    windows = replace(PLAN, steps=15).windows(5, 0)
    assert [list(w.steps) for w in windows] == [[*range(n, n + 5)] for n in (0, 5, 10)]
    assert [w.epoch for w in windows] == [0, 1, 2]
    assert [w.evaluates for w in windows] == [False, False, True]


@pytest.mark.parametrize("log_every_steps", [1, 4, EPOCH, 100])
@pytest.mark.parametrize("steps", [EPOCH, 2 * EPOCH])
def test_the_windows_of_an_epoch_are_as_equal_as_they_can_be(steps, log_every_steps):
    lengths = {
        len(w.steps) for w in replace(PLAN, steps=steps).windows(log_every_steps, 1)
    }
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    "steps, every, evaluated_after",
    [
        (15, 0, [15]),
        (15, 1, [6, 12, 15]),
        (15, 2, [12, 15]),
        (15, 9, [15]),
        (12, 1, [6, 12]),  # the run's end is an epoch's: evaluated once
        (5, 1, [5]),
    ],
)
@pytest.mark.parametrize("log_every_steps", [1, 4, 100])
def test_evaluation_follows_the_epochs_that_ask_for_it_and_the_last_step(
    steps, every, evaluated_after, log_every_steps
):
    windows = replace(PLAN, steps=steps).windows(log_every_steps, every)
    assert [w.steps.stop for w in windows if w.evaluates] == evaluated_after


def test_steps_win_over_epochs(config):
    epochs = config("train.epochs=3", "train.global_batch_size=16")
    both = config("train.epochs=3", "train.steps=7", "train.global_batch_size=16")
    assert BatchPlan.of(epochs, 103).steps == 3 * EPOCH
    assert BatchPlan.of(both, 103).steps == 7


def test_a_training_set_smaller_than_a_batch_is_refused_with_both_numbers(config):
    with pytest.raises(ConfigError, match=r"global_batch_size=64 .* 63 .* at most 63"):
        BatchPlan.of(config("train.global_batch_size=64"), examples=63)
    assert BatchPlan.of(
        config("train.global_batch_size=64"), examples=64
    ).steps_per_epoch


SPLITS = [  # test examples, global batch, world size
    (1, 8, 8),
    (7, 8, 1),
    (10, 4, 2),
    (16, 16, 4),
    (17, 16, 4),
    (103, 24, 8),
]


def counted(examples, global_batch_size, world_size, *, masked=True):
    """How often each example counts, over all ranks."""
    counts = np.zeros(examples, int)
    for rank in range(world_size):
        for indices, mask in evaluation_batches(
            examples, global_batch_size, rank, world_size
        ):
            assert len(indices) == len(mask) == global_batch_size // world_size
            np.add.at(counts, indices[mask] if masked else indices, 1)
    return counts.tolist()


@pytest.mark.parametrize("examples, global_batch_size, world_size", SPLITS)
def test_evaluation_counts_each_example_exactly_once(
    examples, global_batch_size, world_size
):
    assert counted(examples, global_batch_size, world_size) == [1] * examples


def test_padding_that_counted_would_be_noticed():
    assert counted(17, 16, 4, masked=False) == [1 + 15, *[1] * 16]


@pytest.mark.parametrize("world_size", WORLDS)
def test_ranks_joined_evaluate_in_the_datasets_order(world_size):
    ranks = [list(evaluation_batches(17, 8, r, world_size)) for r in range(world_size)]
    batches = zip(*ranks, strict=True)
    joined = [np.concatenate([i[m] for i, m in shares]) for shares in batches]
    assert np.concatenate(joined).tolist() == list(range(17))


def test_a_slice_is_a_view_in_rank_order():
    assert [rank_slice(np.arange(6), rank, 3).tolist() for rank in range(3)] == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_micro_batch_holds_the_same_examples_at_every_world_size(world_size):
    plan = BatchPlan(
        seed=3, examples=100, global_batch_size=24, steps=9, grad_accum_steps=3
    )
    whole = BatchPlan(seed=3, examples=100, global_batch_size=24, steps=9)
    for step in 0, 5:
        shares = [plan.micro_batches(step, r, world_size) for r in range(world_size)]
        together = np.concatenate(shares, axis=1)
        np.testing.assert_array_equal(together, whole.indices(step).reshape(3, 8))


def test_no_window_spans_a_checkpoint_and_those_that_end_at_one_save():
    windows = replace(PLAN, steps=15).windows(4, 1, save_every_steps=5)
    assert [(w.steps.start, w.steps.stop) for w in windows] == [
        *((0, 2), (2, 5), (5, 6), (6, 10), (10, 12), (12, 15)),
    ]
    assert [w.steps.stop for w in windows if w.saves] == [5, 10, 15]
    assert [w.steps.stop for w in windows if w.evaluates] == [6, 12, 15]
    assert not any(w.saves for w in PLAN.windows(4, 1))


@pytest.mark.parametrize("done", range(16))
@pytest.mark.parametrize("every", [None, 2, 5])
def test_a_resumed_run_has_the_windows_that_are_left(every, done):
    whole = PLAN.windows(4, 1, every)
    left = PLAN.windows(4, 1, every, done)
    assert [step for w in left for step in w.steps] == list(range(done, 15))
    assert left[1:] == [w for w in whole if w.steps.start > done][-len(left[1:]) :]
    if any(w.steps.start == done for w in whole):
        assert left == [w for w in whole if w.steps.start >= done]
