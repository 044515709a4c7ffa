"""A run that is asked to stop is told so, whoever asks, and says how to go on."""

import errno
import json
import os
import signal
import time

import pytest

from recipe.errors import RecordError
from record.stopping import REQUEUE, SAME_STOP, SIGNALS, STOP, Stopping, mark_requeue


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_each_signal_asks_to_stop_and_does_no_more(number):
    with Stopping() as stopping:
        assert stopping.asked() is None
        send(number)
        assert stopping.asked() == number.name


def test_a_file_asks_to_stop_once_the_run_folder_is_known(tmp_path):
    with Stopping() as stopping:
        (tmp_path / STOP).touch()
        assert stopping.asked() is None
        stopping.watch(tmp_path)
        assert stopping.asked() == "STOP"
        (tmp_path / STOP).unlink()
        assert stopping.asked() is None


def test_the_signals_are_given_back_to_what_had_them():
    def mine(*_):
        pass

    before = [signal.getsignal(number) for number in SIGNALS]
    signal.signal(signal.SIGUSR1, mine)
    try:
        with Stopping() as stopping:
            assert signal.getsignal(signal.SIGUSR1) == stopping._handle
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before[-1])
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_handlers_that_were_replaced_are_taken_back_and_the_first_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a library may
        send(signal.SIGTERM)
        assert stopping.asked() is None
        stopping.install()
        send(signal.SIGTERM)
        assert stopping.asked() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_that_arrives_twice_at_once_is_one():
    clock = [10.0]
    with Stopping(lambda: clock[0]) as stopping:
        send(signal.SIGINT)
        clock[0] += SAME_STOP - 0.1
        send(signal.SIGTERM)  # else this process were gone
        assert stopping.asked() == "SIGINT"


SECOND = """
import atexit, os, signal, sys
from record.stopping import Stopping
clock = [0.0]
atexit.register(print, "cleaned up")
with Stopping(lambda: clock[0]) as stopping:
    os.kill(os.getpid(), signal.SIGUSR1)
    clock[0] = float(sys.argv[1])
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("went on")
"""


@pytest.mark.parametrize(
    "later, status, said",
    [
        (SAME_STOP, 128 + signal.SIGTERM, ""),
        (SAME_STOP / 2, 0, "went on\ncleaned up\n"),
    ],
)
def test_a_second_signal_leaves_at_once(run_python, later, status, said):
    done = run_python(["-c", SECOND, str(later)])
    assert (done.returncode, done.stdout) == (status, said), done.stderr


UNDER_JAX = """
import os, signal, socket, sys
import jax
from record.stopping import Stopping

def terminate():
    os.kill(os.getpid(), signal.SIGTERM)

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
with Stopping() as stopping:
    jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0)
    if sys.argv[1] == "install":
        stopping.install()
    terminate()
    print(stopping.asked())
jax.distributed.shutdown()
"""


@pytest.mark.parametrize("when, asked", [("install", "SIGTERM"), ("never", "None")])
def test_installed_again_after_jax_met_its_processes_sigterm_is_heard(
    run_python, when, asked
):
    done = run_python(["-c", UNDER_JAX, when])
    assert done.stdout == f"{asked}\n", done.stderr


# The marker


def test_the_marker_says_where_and_why_and_takes_the_stop_file_away(tmp_path):
    (tmp_path / STOP).touch()
    mark_requeue(tmp_path, 40, "STOP")
    assert [path.name for path in tmp_path.iterdir()] == [REQUEUE]
    marked = json.loads((tmp_path / REQUEUE).read_text())
    assert marked == {"step": 40, "reason": "STOP"}


def test_a_marker_that_cannot_be_written_is_our_own_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left"):
        mark_requeue(tmp_path, 40, "SIGTERM")
    assert list(tmp_path.iterdir()) == []


def test_the_clock_is_one_that_nobody_sets():
    assert Stopping()._now is time.monotonic
