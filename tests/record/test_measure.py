"""Steps that are timed after the training."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from recipe.errors import RecordError
from recipe.timing import WINDOWS, Pace
from record.measure import measure


class Calls:
    """In place of record, stop and heartbeat: notes its calls."""

    def __init__(self, stop_at=None, fail_at=None):
        self.rows, self.points, self.failure = [], [], None
        self.groups = []  # of steps, and those that follow
        self._stop_at, self._fail_at = stop_at, fail_at

    def measured(self, steps, times):
        self.rows.append((steps, times))
        if len(self.rows) == self._fail_at:
            self.failure = RecordError("disk full")

    def stop_if(self, failed):
        if failed:
            raise self.failure

    def asked(self):
        return "SIGTERM" if len(self.rows) == self._stop_at else None

    def progress(self, slow=False):
        self.points.append(slow)


TICK = 2.0**-12  # seconds, exact in floating point


@pytest.fixture
def measured(monkeypatch):
    """`measured(told)`: the steps that were issued, with another rank twice as slow.

    By a clock that goes on while steps are issued alone: one tick for data, two for
    dispatch.
    """
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("record.clock.time", clock)

    def gather(values):
        slower = [2 * values[0], 3 * values[1], *values[2:]]
        return np.array([values, slower], np.float64)

    ranks = SimpleNamespace(gather=gather)

    def measured(told, seconds=0.05):
        issued = []

        def issue(steps, following, clock):
            issued.extend(steps)
            told.groups.append((steps, following))
            with clock.data():
                now[0] += TICK
            with clock.dispatch():
                now[0] += 2 * TICK

        measure(Pace(seconds, 5, 40), issue, lambda: None, told, told, told, ranks)
        return issued

    return measured


def test_windows_count_by_the_slowest_rank_and_follow_the_last_step(measured):
    told = Calls()
    issued = measured(told)
    assert issued == list(range(40, 40 + len(issued)))
    assert len(told.rows) >= WINDOWS
    assert sum(times.seconds.max() for _, times in told.rows) >= 0.05
    steps, times = told.rows[-1]
    assert steps.stop == issued[-1] + 1
    parts = len(steps) // 5
    assert parts > 1
    assert times.seconds.tolist() == [3 * TICK * parts, 6 * TICK * parts]
    assert times.data_seconds == 3 * TICK * parts
    assert times.dispatch_seconds == 2 * TICK * parts


def test_all_but_a_windows_first_steps_are_announced_with_those_before(measured):
    told = Calls()
    measured(told)
    for (_, announced), (steps, _) in pairwise(told.groups):
        assert announced in (steps, range(0))
    windows = len(told.points)
    assert sum(not following for _, following in told.groups) == windows
    assert len(told.groups) > windows


def test_the_ranks_come_together_after_each_window_and_a_slow_end_follows(measured):
    told = Calls()
    measured(told)
    assert told.points == [False] * (len(told.points) - 1) + [True]


def test_a_stop_ends_the_measuring_with_what_was_timed(measured):
    told = Calls(stop_at=2)
    measured(told, seconds=1000.0)
    assert len(told.rows) == 3
    assert told.points[-1]


def test_a_record_that_cannot_be_written_ends_the_run(measured):
    with pytest.raises(RecordError, match="disk full"):
        measured(Calls(fail_at=1))


def test_nothing_is_measured_where_nothing_is_asked_for(measured):
    assert measured(Calls(), seconds=None) == []
