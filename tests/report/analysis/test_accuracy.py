"""Time to accuracy: what was trained until then, and never of the lucky runs alone."""

import pytest

from report.analysis.cells import cells_of
from report.analysis.intervals import median_estimate
from report.analysis.timings import Evaluated, common_target, time_to

FAST, SLOW = Evaluated((1.0, 2.0), (0.8, 0.95)), Evaluated((1.0, 4.0), (0.7, 0.92))
NEVER = Evaluated((1.0, 2.0), (0.1, 0.2))


@pytest.fixture
def cell(timed_run):
    """Three repeats on two devices."""
    runs = [timed_run(rate, world_size=2) for rate in (100.0, 101.0, 102.0)]
    ((cell,), _) = cells_of(runs)
    return cell


def test_it_is_the_median_over_repeats_and_its_device_hours(cell):
    found = time_to(cell, [FAST, SLOW, FAST], 0.9)
    assert found.seconds is not None and found.seconds.value == 2.0
    assert found.device_hours == pytest.approx(2 * 2.0 / 3600)
    assert found.seconds.low is not None


def test_one_run_that_missed_the_target_leaves_the_cell_without_a_time(cell):
    found = time_to(cell, [FAST, NEVER, FAST], 0.9)
    assert found.seconds is found.device_hours is None
    assert found.reason == "2 of 3 runs reached 0.9"


def test_a_run_evaluated_only_at_its_end_tells_no_time_to_accuracy(cell):
    once = Evaluated((2.0,), (0.95,), (100,))
    for given in [once] * 3, [FAST, once, FAST]:
        found = time_to(cell, given, 0.9)
        assert found.seconds is found.device_hours is None
        assert found.reason == "evaluated only at its end"


def test_it_is_known_no_finer_than_the_widest_gap_between_evaluations(cell):
    late = Evaluated((1.0, 2.0), (0.9, 0.95), (30, 40))
    assert time_to(cell, [FAST, late, FAST], 0.9).steps_apart == 30


def test_the_target_is_one_that_every_run_reached():
    assert common_target([FAST, SLOW]) == 0.92
    assert common_target([FAST, Evaluated((), ())]) is None


def test_over_seeds_each_counts_once_however_often_it_ran(timed_run):
    seeds = (0, 0, 0, 1, 2)
    runs = [timed_run(100.0 + n, seed=seed) for n, seed in enumerate(seeds)]
    ((cell,), _) = cells_of(runs)
    took = [1.0, 1.1, 1.2, 3.0, 4.0]
    of = [Evaluated((s, s + 1), (0.95, 0.95)) for s in took]
    found = time_to(cell, of, 0.9)
    assert found.seconds == median_estimate([1.1, 3.0, 4.0])
    assert found.device_hours == pytest.approx(3.0 / 3600)
