"""What steps need is prepared early, and is what it would have been later."""

import pytest

from data.ahead import Ahead


@pytest.fixture
def prepared():
    """The steps that were prepared, in order; and what prepares their numbers."""
    seen = []

    def prepare(steps):
        seen.append(steps)
        return list(steps)

    return seen, Ahead(prepare)


def test_what_was_prepared_is_taken_once_and_not_prepared_again(prepared):
    seen, ahead = prepared
    ahead.look(range(3, 5))
    assert seen == [range(3, 5)]
    assert ahead.take(range(3, 5)) == [3, 4]
    assert seen == [range(3, 5)]
    assert ahead.take(range(3, 5)) == [3, 4]
    assert seen == [range(3, 5)] * 2


@pytest.mark.parametrize("foreseen", [range(0), range(3, 5)])
def test_steps_that_were_not_foreseen_are_prepared_when_taken(prepared, foreseen):
    seen, ahead = prepared
    ahead.look(foreseen)
    assert ahead.take(range(5, 6)) == [5]
    assert seen[-1] == range(5, 6)


def test_nothing_is_prepared_beyond_the_last_step(prepared):
    seen, ahead = prepared
    ahead.look(range(0))
    assert seen == []
