"""What ranks are allowed to take grows with what they took."""

import pytest

from recipe.execution import ParallelConfig
from runtime.progress import Progress


@pytest.fixture
def progress():
    config = ParallelConfig(name="dp", timeout_seconds=2, start_timeout_seconds=60)
    return Progress(config, beat_seconds=0.5)


def too_long(progress: Progress, beats: int) -> bool:
    return [progress.beat() for _ in range(beats)][-1]


def test_a_start_and_what_is_announced_as_slow_may_take_as_long_as_a_start(progress):
    assert not too_long(progress, 120)
    progress.reached(slow=True)
    assert not too_long(progress, 120)
    assert too_long(progress, 1)


def test_what_follows_may_take_ten_times_the_longest_so_far(progress):
    too_long(progress, 100)
    progress.reached(slow=False)
    assert progress.allowed_seconds == 2  # a start does not count
    too_long(progress, 1)
    progress.reached(slow=False)
    assert not too_long(progress, 10)
    assert too_long(progress, 1)


def test_it_never_is_more_than_a_start(progress):
    progress.reached(slow=False)
    too_long(progress, 14)
    progress.reached(slow=False)
    assert progress.allowed_seconds == 60
