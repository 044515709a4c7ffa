"""Steps do not wait for a save, and no error of one is lost."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from recipe.errors import RecordError
from recipe.execution import CheckpointConfig
from record.checkpoint import CheckpointWriter, newest_checkpoint
from record.saver import Saver
from tests.record.checkpoints import assert_same, checkpoint, steps


class Disk:
    """Stands in for a writer: slow on request, and failing at some steps."""

    def __init__(self, broken: tuple[int, ...] = ()):
        self.may_write = threading.Event()
        self.saved, self.at_once, self.most = [], 0, 0
        self._broken = broken

    def save(self, given):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.may_write.wait(30)
        self.at_once -= 1
        if given.step in self._broken:
            raise RecordError(f"no space for {given.step}")
        self.saved.append(given)


def saver(disk, **options) -> Saver:
    return Saver(disk, CheckpointConfig(), **options)


def written(saver: Saver) -> None:
    """Until the save in flight, if any, has come to its end."""
    end = time.monotonic() + 30
    while saver._pending is not None and not saver._pending.done():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_save_is_on_the_disk_when_the_saver_is_closed(tmp_path):
    with CheckpointWriter(tmp_path, keep=2) as writer, saver(writer) as saving:
        for step in 10, 20, 30:
            saving.save(checkpoint(step))
    assert steps(tmp_path) == [20, 30]
    assert_same(newest_checkpoint(tmp_path)[0], checkpoint(30))


def test_steps_continue_while_a_save_is_written_and_may_change_its_arrays():
    disk, given = Disk(), checkpoint(10)
    with saver(disk) as saving:
        saving.save(given)
        given.arrays["weights"]["dense.0.kernel"] += 1
        assert disk.saved == []
        disk.may_write.set()
    assert_same(disk.saved[0], checkpoint(10))


def test_what_is_saved_lies_in_memory_as_its_shape_says():
    disk, kernel = Disk(), np.arange(6.0).reshape(2, 3)
    disk.may_write.set()
    with saver(disk) as saving:
        saving.save(checkpoint(10, arrays={"weights": {"dense.0.kernel": kernel.T}}))
    (array,) = disk.saved[0].arrays["weights"].values()
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, kernel.T)


def test_at_most_one_save_is_in_flight():
    disk = Disk()
    with saver(disk) as saving:
        saving.save(checkpoint(10))
        threading.Timer(0.05, disk.may_write.set).start()
        saving.save(checkpoint(20))
        assert [given.step for given in disk.saved][:1] == [10]
        saving.save(checkpoint(30))
    assert [given.step for given in disk.saved] == [10, 20, 30]
    assert disk.most == 1


def test_an_error_is_raised_by_the_next_save_which_is_not_started():
    disk = Disk(broken=(10,))
    disk.may_write.set()
    with saver(disk) as saving:
        saving.save(checkpoint(10))
        written(saving)
        assert saving.failed
        with pytest.raises(RecordError, match="no space for 10"):
            saving.save(checkpoint(20))
        assert not saving.failed
    assert disk.saved == []


def test_an_error_of_the_last_save_is_raised_by_close():
    disk = Disk(broken=(20,))
    disk.may_write.set()
    saving = saver(disk)
    saving.save(checkpoint(10))
    saving.save(checkpoint(20))
    with pytest.raises(RecordError, match="no space for 20"):
        saving.close()
    saving.close()  # said once


def test_a_save_that_succeeds_is_no_failure():
    disk = Disk()
    with saver(disk) as saving:
        assert not saving.failed
        saving.save(checkpoint(10))
        assert not saving.failed  # and is not waited for
        disk.may_write.set()
        written(saving)
        assert not saving.failed


def test_a_step_on_the_disk_is_not_written_again():
    disk = Disk()
    disk.may_write.set()
    with saver(disk, saved=10) as saving:
        for step in 10, 20, 20, 30:
            saving.save(checkpoint(step))
    assert [given.step for given in disk.saved] == [20, 30]


def test_a_step_that_failed_may_be_tried_again():
    disk = Disk(broken=(10,))
    disk.may_write.set()
    with saver(disk) as saving:
        saving.save(checkpoint(10))
        with pytest.raises(RecordError):
            saving.save(checkpoint(10))
        disk._broken = ()
        saving.save(checkpoint(10))
    assert [given.step for given in disk.saved] == [10]


def test_what_has_to_come_first_does():
    disk, order = Disk(), []
    with saver(disk) as saving:
        saving.save(checkpoint(10), before=lambda: order.append(list(disk.saved)))
        disk.may_write.set()
    assert order == [[]]
    assert len(disk.saved) == 1


def test_an_error_of_what_comes_first_keeps_the_checkpoint_back():
    disk = Disk()
    disk.may_write.set()
    saving = saver(disk)
    saving.save(checkpoint(10), before=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        saving.close()
    assert disk.saved == []


# When a checkpoint is due by time


def timed(clock: list[float], minutes: float | None) -> Saver:
    disk = Disk()
    disk.may_write.set()
    config = replace(CheckpointConfig(), every_minutes=minutes)
    return Saver(disk, config, now=lambda: clock[0])  # pyright: ignore


def test_a_checkpoint_is_due_when_its_minutes_have_gone_by_since_the_last():
    clock = [1000.0]
    with timed(clock, 2) as saving:
        due = []
        for second in 0, 119, 120, 121, 239, 240:
            clock[0] = 1000.0 + second
            due.append(saving.time_is_up())
            if due[-1]:
                saving.save(checkpoint(second))
    assert due == [False, False, True, False, False, True]


def test_without_minutes_none_is_due_by_time():
    clock = [0.0]
    with timed(clock, None) as saving:
        clock[0] = 1e9
        assert not saving.time_is_up()


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_is_set_moves_no_checkpoint(monkeypatch, jump):
    wall = time.time
    with saver(Disk()) as saving:
        monkeypatch.setattr(time, "time", lambda: wall() + jump)
        assert not saving.time_is_up()


def test_a_rule_that_followed_such_a_clock_would_be_noticed(monkeypatch):
    wall = time.time
    with saver(Disk(), now=lambda: time.time()) as saving:
        monkeypatch.setattr(time, "time", lambda: wall() + 1e9)
        assert saving.time_is_up()
