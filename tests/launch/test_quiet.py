"""Waiting for a machine that others leave alone."""

import pytest

from launch.quiet import BUSY, Quiet, may_start, used_fraction


@pytest.mark.parametrize(
    ("busy", "waited", "on"),
    [
        (BUSY, 0.0, True),
        (BUSY + 0.01, 0.0, False),
        (1.0, 299.0, False),
        (1.0, 300.0, True),
    ],
)
def test_a_cell_begins_on_a_quiet_machine_or_after_the_limit(busy, waited, on):
    assert may_start(busy, waited, limit=300.0) is on


def test_what_waits_for_a_disk_uses_no_core_and_what_is_stolen_is_used():
    before = dict.fromkeys(("user", "idle", "iowait", "steal"), 0.0)
    after = {"user": 1.0, "idle": 5.0, "iowait": 3.0, "steal": 1.0}
    assert used_fraction(before, after) == pytest.approx(0.2)
    assert used_fraction(before, before) == 0.0


def quiet(shares, limit=10.0):
    """One that finds these shares, a second apart, and what it said."""
    said, clock, left = [], iter(range(1000)), iter(shares)
    return Quiet(limit, said.append, lambda: next(left), lambda: next(clock)), said


def test_a_quiet_machine_is_not_waited_for():
    waiter, said = quiet([0.02])
    assert waiter.wait() == 0.02
    assert said == []


def test_a_wait_is_said_once_and_ends_when_others_do():
    waiter, said = quiet([0.9, 0.8, 0.7, 0.05])
    assert waiter.wait() == 0.05
    assert said == [
        "waiting for up to 10 s (study.wait_minutes): other processes use 90% of the "
        "cores"
    ]


def test_the_limit_is_of_all_cells_together_and_said_when_it_is_over():
    waiter, said = quiet([0.9] * 99, limit=3.0)
    assert waiter.wait() == 0.9
    assert said[1:] == [
        "other processes still use 90% of the cores: continuing; cells.jsonl "
        "records it for each run"
    ]
    waiter.wait()
    assert len(said) == 2 and waiter.waited == 3.0


def test_without_minutes_nothing_is_waited_for():
    waiter, said = quiet([1.0], limit=0.0)
    assert (waiter.wait(), said) == (1.0, [])
