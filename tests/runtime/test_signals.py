"""A run notices that it is asked to stop, whoever asks."""

import os
import signal
import time

import pytest

from runtime.signals import DEBOUNCE_SECONDS, SIGNALS, Stopping


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def heard(stopping: Stopping, seconds: float = 30) -> str | None:
    """What it was asked by, as soon as its thread has noted it."""
    end = time.monotonic() + seconds
    while stopping.asked() is None and time.monotonic() < end:
        time.sleep(0.001)
    return stopping.asked()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_each_signal_asks_to_stop_and_does_no_more(number):
    with Stopping() as stopping:
        assert stopping.asked() is None
        send(number)
        assert heard(stopping) == number.name


def test_a_file_asks_to_stop_once_the_run_folder_is_known(tmp_path):
    with Stopping() as stopping:
        (tmp_path / "STOP").touch()
        assert stopping.asked() is None
        stopping.watch(tmp_path / "STOP")
        assert stopping.asked() == "STOP"
        (tmp_path / "STOP").unlink()
        assert stopping.asked() is None


def test_the_signals_are_given_back_to_what_had_them():
    def mine(*_):
        pass

    before = [signal.getsignal(number) for number in SIGNALS]
    signal.signal(signal.SIGUSR1, mine)
    try:
        with Stopping() as stopping:
            assert signal.getsignal(signal.SIGUSR1) is not mine
            assert stopping.asked() is None
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before[SIGNALS.index(signal.SIGUSR1)])
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_hangup_that_nohup_has_ignored_asks_for_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            stopping.install()  # again, as after JAX's start
            send(signal.SIGHUP)
            assert heard(stopping, seconds=0.05) is None
            send(signal.SIGTERM)
            assert heard(stopping) == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_that_were_replaced_are_taken_back_and_the_first_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a library may
        send(signal.SIGTERM)
        assert heard(stopping, seconds=0.05) is None
        stopping.install()
        send(signal.SIGTERM)
        assert heard(stopping) == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_that_arrives_twice_at_once_is_one():
    clock = [10.0]
    with Stopping(lambda: clock[0]) as stopping:
        send(signal.SIGINT)
        assert heard(stopping) == "SIGINT"
        clock[0] += DEBOUNCE_SECONDS - 0.1
        send(signal.SIGTERM)  # else this process were gone
    assert stopping.asked() == "SIGINT"


SECOND = """
import atexit, ctypes, os, signal, sys, time
from runtime.signals import Stopping
clock = [0.0]
atexit.register(print, "cleaned up")
with Stopping(lambda: clock[0]) as stopping:
    os.kill(os.getpid(), signal.SIGUSR1)
    while not stopping.asked():
        time.sleep(0.001)
    clock[0] = float(sys.argv[1])
    # As in a step that compiles: not one bytecode is run by this thread.
    os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", f"sleep 0.2; kill -TERM {os.getpid()}")
    ctypes.CDLL(None).nanosleep((ctypes.c_long * 2)(1, 0), None)
    ctypes.CDLL(None).nanosleep((ctypes.c_long * 2)(1, 0), None)
    print("went on")
"""


@pytest.mark.parametrize(
    "later, status, said",
    [
        (DEBOUNCE_SECONDS, 128 + signal.SIGTERM, ""),
        (DEBOUNCE_SECONDS / 2, 0, "went on\ncleaned up\n"),
    ],
)
def test_a_second_signal_leaves_at_once(run_python, later, status, said):
    done = run_python(["-c", SECOND, str(later)])
    assert (done.returncode, done.stdout) == (status, said), done.stderr


UNDER_JAX = """
import os, signal, socket, sys, time
import jax
from runtime.signals import Stopping

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
with Stopping() as stopping:
    jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0)
    if sys.argv[1] == "install":
        stopping.install()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    print(stopping.asked())
jax.distributed.shutdown()
"""


@pytest.mark.parametrize("when, asked", [("install", "SIGTERM"), ("never", "None")])
def test_installed_again_after_jax_met_its_processes_sigterm_is_heard(
    run_python, when, asked
):
    done = run_python(["-c", UNDER_JAX, when])
    assert done.stdout == f"{asked}\n", done.stderr


def test_the_clock_is_one_that_nobody_sets():
    assert Stopping()._now is time.monotonic
