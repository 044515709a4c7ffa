"""Steps that are timed after the training, in either twin."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from recipe.errors import RecordError
from recipe.timing import WINDOWS, Pace


class Told:
    """In place of record, stop and heartbeat: notes what it is told."""

    def __init__(self, stop_at=None, fail_at=None):
        self.rows, self.points, self.failure = [], [], None
        self._stop_at, self._fail_at = stop_at, fail_at

    def measured(self, steps, **seconds):
        self.rows.append((steps, seconds))
        if len(self.rows) == self._fail_at:
            self.failure = RecordError("disk full")

    def stop_if(self, failed):
        if failed:
            raise self.failure

    def asked(self):
        return "SIGTERM" if len(self.rows) == self._stop_at else None

    def progress(self, slow=False):
        self.points.append(slow)


@pytest.fixture(params=["torch", "jax"])
def measured(request):
    """`measured(told)`: the steps that were issued, with another rank twice as slow."""
    twin = import_module(f"{request.param}_impl.measure")

    def gather(values):
        slower = [2 * values[0], 3 * values[1], *values[2:]]
        return np.array([values, slower], np.float64)

    world = SimpleNamespace(ranks=SimpleNamespace(gather=gather))

    def measured(told, seconds=0.05):
        issued = []

        def issue(steps):
            issued.extend(steps)
            return [], [], 0.25, 0.5

        twin.measure(Pace(seconds, 5, 40), issue, lambda: None, told, told, told, world)
        return issued

    return measured


def test_windows_count_by_the_slowest_rank_and_follow_the_last_step(measured):
    told = Told()
    issued = measured(told)
    assert issued == list(range(40, 40 + len(issued)))
    assert len(told.rows) >= WINDOWS
    assert sum(row["seconds"].max() for _, row in told.rows) >= 0.05
    steps, row = told.rows[-1]
    assert steps.stop == issued[-1] + 1
    assert row["seconds"][1] == 2 * row["seconds"][0]
    parts = len(steps) // 5
    assert (row["data_seconds"], row["dispatch_seconds"]) == (0.75 * parts, 0.5 * parts)


def test_the_ranks_come_together_after_each_window_and_a_slow_end_follows(measured):
    told = Told()
    measured(told)
    assert told.points == [False] * (len(told.points) - 1) + [True]


def test_a_stop_ends_the_measuring_with_what_was_timed(measured):
    told = Told(stop_at=2)
    measured(told, seconds=1000.0)
    assert len(told.rows) == 3
    assert told.points[-1]


def test_a_record_that_cannot_be_written_ends_the_run(measured):
    with pytest.raises(RecordError, match="disk full"):
        measured(Told(fail_at=1))


def test_nothing_is_measured_where_nothing_is_asked_for(measured):
    assert measured(Told(), seconds=None) == []
