"""How many steps are timed after a training, and when that is enough."""

import pytest

from recipe.timing import LONGEST, PILOTS, WINDOWS, Pace, steps_of_window


def paced(seconds, step_seconds, most=20, step=100) -> tuple[Pace, list[list[range]]]:
    """The windows of a run whose steps all take as long; pilots come first."""
    pace, windows = Pace(seconds, most, step), []
    while not pace.enough:
        windows.append(pace.window())
        pace.took(step_seconds * sum(map(len, windows[-1])))
    return pace, windows


@pytest.mark.parametrize("step_seconds", [1e-5, 3e-3, 0.04, 0.5, 40.0])
@pytest.mark.parametrize("seconds", [0.01, 3.0, 60.0])
def test_there_are_enough_windows_and_seconds_whatever_the_speed(seconds, step_seconds):
    pace, windows = paced(seconds, step_seconds)
    assert pace.windows == len(windows) - PILOTS >= WINDOWS
    assert pace.timed >= seconds


def test_windows_are_as_long_as_was_asked_for_and_no_longer_than_a_rank_may_take():
    lengths = {s: sum(map(len, paced(s, 0.01)[1][-1])) * 0.01 for s in (3.0, 60.0)}
    assert lengths == pytest.approx({3.0: 0.6, 60.0: LONGEST})


def test_every_window_that_counts_has_the_same_steps_and_none_is_omitted():
    _, windows = paced(3.0, 0.001)
    assert len({sum(map(len, window)) for window in windows[PILOTS:]}) == 1
    steps = [step for window in windows for part in window for step in part]
    assert steps == list(range(100, 100 + len(steps)))


def test_as_many_steps_are_issued_at_once_as_in_training():
    _, windows = paced(3.0, 0.001)
    assert {len(part) for window in windows[PILOTS:] for part in window} == {20}
    assert steps_of_window(1.0, 0.1, most=20) == 10  # fewer, where steps are slow


def test_the_first_pilot_is_one_step():
    assert paced(3.0, 0.001)[1][0] == [range(100, 101)]


def test_nothing_is_timed_where_nothing_is_asked_for():
    assert Pace(None, 20, 100).enough
