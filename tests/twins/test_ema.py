"""The average of the weights is its formula, in both twins and at every world size."""

import numpy as np
import pytest

from record.run import AVERAGE
from report.parity.differences import leaf_differences
from tests.launch.conftest import NORMED
from tests.twins.steps import EXAMPLES, random_weights
from tests.twins.two_ranks import OVERFLOW, case

DECAY = 0.7


def parted(end):
    """The weights after the last step, and their average."""
    average = {n.removeprefix(AVERAGE): a for n, a in end.items() if AVERAGE in n}
    return {name: array for name, array in end.items() if AVERAGE not in name}, average


def mean_of(history, decay=DECAY):
    """Of weights, oldest first, that count less by the decay for each update since."""
    shares = decay ** np.arange(len(history))[::-1]
    shares = shares / shares.sum()
    return {
        name: sum(share * w[name] for share, w in zip(shares, history, strict=True))
        for name in history[0]
    }


@pytest.mark.parametrize("recipe", [["experiment=digits_mlp"], NORMED], ids=" ".join)
def test_the_average_is_the_decaying_mean_of_all_weights_so_far(
    recipe, make_config, twins
):
    config = make_config(*recipe, "precision=fp64", f"optim.ema_decay={DECAY}")
    batches = np.random.default_rng(2).integers(EXAMPLES, size=(4, 8), dtype=np.int32)
    for twin in twins(config, random_weights(config)):
        ends = [parted(twin(batches[: n + 1])[1]) for n in range(len(batches))]
        expected = mean_of([weights for weights, _ in ends])
        averages = ends[-1][1]
        assert averages.keys() == expected.keys()
        assert max(leaf_differences(averages, expected).values()) < 1e-14
        # What the weights began at has no part in it.
        assert max(leaf_differences(*ends[0]).values()) < 1e-15


def test_what_averages_leaves_the_training_as_it_is(make_config, twins):
    recipe = [*NORMED, "precision=fp64"]
    plain = make_config(*recipe)
    averaging = make_config(*recipe, f"optim.ema_decay={DECAY}")
    batch = np.arange(16, dtype=np.int32).reshape(2, 8)
    for without, with_it in zip(
        twins(plain, weights := random_weights(plain)),
        twins(averaging, weights),
        strict=True,
    ):
        (seen, end), (also_seen, both) = without(batch), with_it(batch)
        kept, average = parted(both)
        np.testing.assert_allclose(also_seen, seen, rtol=1e-13)
        assert max(leaf_differences(kept, end).values()) < 1e-13
        assert max(leaf_differences(average, end).values()) > 1e-3


def test_a_skipped_step_does_not_affect_the_average(twins):
    config, weights, arrays, batches, rate = case("fp16", f"optim.ema_decay={DECAY}")
    for twin in twins(config, weights, arrays):
        history, averages = [], []
        for done in range(OVERFLOW - 1, OVERFLOW + 3):
            seen, end = twin(batches[:done], rate)
            weights_after, average = parted(end)
            averages.append(average)
            history.append((seen[-1, 3], weights_after))
        assert [skipped for skipped, _ in history] == [0, 0, 1, 0]
        before, skipped = averages[1:3]
        assert all(np.array_equal(before[name], skipped[name]) for name in before)
        # The next update is the 8th that was applied, not the 9th.
        moved, whole = (
            np.concatenate([(w[n] - skipped[n]).ravel() for n in skipped], dtype=float)
            for w in (averages[3], history[3][1])
        )
        rate_then = (1 - DECAY) / (1 - DECAY ** (OVERFLOW + 1))
        assert moved @ whole / (whole @ whole) == pytest.approx(rate_then, rel=1e-3)
