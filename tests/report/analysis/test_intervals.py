"""Intervals hold what they promise, on a thousand studies whose truth is known."""

import numpy as np
import pytest
import scipy.stats

from report.analysis.intervals import (
    Estimate,
    compare,
    half_width,
    locate,
    means_differ,
    median_estimate,
    median_variance_factor,
    ratio_interval,
)

STUDIES = 1000
NOISE = 0.02  # of a run's rate


@pytest.fixture
def rng():
    return np.random.default_rng(20260314)


def normal(rng, repeats):
    return rng.normal(size=(STUDIES, repeats))


def skewed(rng, repeats):
    """Most runs are about as fast, some much slower; the median is 0."""
    return np.log(2) - rng.exponential(size=(STUDIES, repeats))


def two_speeds(rng, repeats):
    """Half the runs are 5 % slower: where a process landed, or how high its clock."""
    slow = rng.random((STUDIES, repeats)) < 0.5
    return rng.normal(size=(STUDIES, repeats)) / 10 - 2.5 * slow


def outliers(rng, repeats):
    """One run in ten is disturbed, and 20 % slower."""
    slow = rng.random((STUDIES, repeats)) < 0.1
    return rng.normal(size=(STUDIES, repeats)) - 10 * slow


def rates(drawn, rate=1000.0, noise=NOISE):
    return rate * np.exp(noise * drawn)


def median_coverage(drawn):
    at = locate(rates(drawn))
    half = half_width(at.variance[:, None], [at.freedom])
    return np.mean(np.abs(at.log_median - np.log(1000.0)) <= half)


@pytest.mark.parametrize("draw", [normal, skewed])
@pytest.mark.parametrize("repeats", [3, 5, 7, 10])
def test_the_interval_of_a_median_covers_it_95_times_in_100(rng, draw, repeats):
    assert 0.93 <= median_coverage(draw(rng, repeats)) <= 0.97


@pytest.mark.parametrize("noisier", [1, 3])
@pytest.mark.parametrize(("draw", "most"), [(normal, 0.97), (skewed, 1.0)])
def test_the_interval_of_an_efficiency_covers_it_95_times_in_100(
    rng, draw, most, noisier
):
    one = rates(draw(rng, 5))
    eight = rates(draw(rng, 5), rate=8000 * 0.8, noise=NOISE * noisier)
    _, low, high = ratio_interval(eight, one)
    covered = (low / 8 <= 0.8) & (high / 8 >= 0.8)
    assert 0.93 <= covered.mean() <= most


@pytest.mark.parametrize("repeats", [3, 7])
def test_percentiles_of_the_bootstrap_would_not_cover_it(rng, repeats):
    drawn = rates(normal(rng, repeats)[:200])
    found = scipy.stats.bootstrap(
        (drawn,),
        np.median,
        axis=-1,
        n_resamples=999,
        method="percentile",
        rng=rng,
    ).confidence_interval
    covered = (found.low <= 1000) & (found.high >= 1000)
    assert covered.mean() < 0.92
    assert covered.mean() < median_coverage(normal(rng, repeats))


@pytest.mark.parametrize("pairs", [1, 4])
@pytest.mark.parametrize("draw", [normal, skewed, two_speeds, outliers])
def test_faster_is_claimed_in_at_most_5_of_100_studies_without_a_difference(
    rng, draw, pairs
):
    drawn = [(rates(draw(rng, 5)), rates(draw(rng, 5))) for _ in range(pairs)]
    claims = sum(
        any(d.verdict in ("faster", "slower") for d in compare(study))
        for study in ([(a[i], b[i]) for a, b in drawn] for i in range(STUDIES))
    )
    assert claims <= 0.05 * STUDIES


@pytest.mark.parametrize("repeats", [3, 4, 5, 7, 10])
@pytest.mark.parametrize("draw", [normal, skewed, two_speeds, outliers])
def test_means_differ_by_chance_in_at_most_5_of_100_studies(rng, draw, repeats):
    a, b = rates(draw(rng, repeats)), rates(draw(rng, repeats))
    assert means_differ(a, b).mean() <= 0.05


@pytest.mark.parametrize("repeats", [5, 7, 10])
def test_the_interval_alone_would_claim_it_of_runs_with_two_speeds(rng, repeats):
    a, b = (rates(two_speeds(rng, repeats)) for _ in range(2))
    _, low, high = ratio_interval(a, b)
    assert np.mean((low > 1) | (high < 1)) > 0.2


def test_medians_that_differ_without_their_means_are_too_noisy_to_tell():
    most, few = [100.0, 100.1, 99.9, 95.0, 100.2], [95.0, 95.1, 94.9, 100.0, 95.2]
    found = compare([(most, few), ([r + 5 for r in most], few)])
    assert found[0].ratio.low > 1
    assert str(found[0]) == (
        "too noisy to tell at n = 5 and 5 (repeats differ by 1.05 ×)"
    )
    assert found[1].verdict == "faster"


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("draw", [normal, skewed, two_speeds, outliers])
def test_no_difference_is_never_said_of_an_interval_that_excludes_one(rng, draw, pairs):
    drawn = [
        (rates(draw(rng, 4)), rates(draw(rng, 4), 1000 + 40 * n)) for n in range(pairs)
    ]
    for study in ([(a[i], b[i]) for a, b in drawn] for i in range(STUDIES)):
        for found in compare(study):
            if found.verdict == "no difference shown":
                assert found.ratio.low <= 1 <= found.ratio.high


def test_repeats_that_differ_by_a_quarter_are_too_noisy_to_show_no_difference():
    wild, calm = [40.0, 100.0, 90.0], [100.0, 101.0, 99.0]
    assert str(compare([(wild, calm)])[0]) == (
        "too noisy to tell at n = 3 and 3 (repeats differ by 2.5 ×)"
    )
    assert compare([(calm, calm[::-1])])[0].verdict == "no difference shown"


def test_means_are_compared_by_welchs_statistic_on_fewer_degrees_of_freedom(rng):
    a, b = rates(normal(rng, 4)), rates(normal(rng, 6), 1020, 3 * NOISE)
    found = scipy.stats.ttest_ind(np.log(a), np.log(b), axis=1, equal_var=False)
    chance = 2 * scipy.stats.t.sf(np.abs(found.statistic), df=3)
    assert np.array_equal(means_differ(a, b), chance < 0.05)
    assert np.all(chance > found.pvalue)


def test_without_a_family_six_questions_would_claim_it_more_often(rng):
    lows, highs = zip(
        *(
            ratio_interval(rates(normal(rng, 5)), rates(normal(rng, 5)))[1:]
            for _ in range(6)
        ),
        strict=True,
    )
    assert np.any((np.array(lows) > 1) | (np.array(highs) < 1), axis=0).mean() > 0.05


def test_a_difference_of_ten_percent_is_found(rng):
    drawn = zip(rates(normal(rng, 5), 1100), rates(normal(rng, 5)), strict=True)
    found = [compare([pair])[0].verdict == "faster" for pair in list(drawn)[:200]]
    assert np.mean(found) > 0.95


def test_faster_and_slower_are_of_the_first():
    fast, slow = [110.0, 111.0, 112.0], [100.0, 101.0, 99.0]
    assert [d.verdict for d in compare([(fast, slow), (slow, fast)])] == [
        "faster",
        "slower",
    ]


@pytest.mark.parametrize(
    ("few", "told"),
    [([100.0], "1 repeat, an"), ([100.0, 101.0], "2 repeats, an")],
)
def test_below_three_repeats_there_is_no_interval_but_the_reason(few, told):
    plenty = [200.0, 201.0, 202.0]
    alone, (against,) = median_estimate(few), compare([(plenty, few)])
    for estimate in alone, against.ratio:
        assert estimate.low is None and estimate.high is None
        assert estimate.reason == f"{told} interval needs 3"
    assert against.verdict == "no difference shown"
    assert str(against).endswith(f"at n = 3 and {len(few)} ({alone.reason})")


def test_three_repeats_are_enough():
    found = median_estimate([99.0, 100.0, 101.0])
    assert found.low is not None and found.low < 100 < (found.high or 0)


def test_equal_repeats_that_differ_by_a_rounding_are_no_difference():
    once, again = [0.3] * 5, [0.1 + 0.2] * 5
    assert once != again
    assert compare([(once, again)])[0].verdict == "no difference shown"


def test_repeats_equal_to_the_last_digit_have_an_interval_without_width():
    found = median_estimate([100.0] * 4)
    assert found == Estimate(100.0, pytest.approx(100.0), pytest.approx(100.0))


@pytest.mark.parametrize("repeats", [2, 3, 4, 5, 8, 61])
def test_the_variance_of_a_median_is_that_of_simulated_ones(rng, repeats):
    medians = np.median(rng.normal(size=(20_000, repeats)), axis=1)
    expected = median_variance_factor(repeats) / repeats
    assert medians.var() == pytest.approx(expected, rel=0.05)
