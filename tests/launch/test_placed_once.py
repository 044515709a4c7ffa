"""While steps are issued nothing goes between host and devices: JAX waits for neither.

A window's batches and learning rates are placed before, its metrics read after.
"""

import pytest

# Transfers are forbidden where a window's steps are issued.
GUARDED = """
from contextlib import contextmanager
import jax, numpy
from record.clock import Clock
dispatch = Clock.dispatch

@contextmanager
def guarded(clock):
    with dispatch(clock), jax.transfer_guard("disallow_explicit"):
        {fault}
        yield

Clock.dispatch = guarded
"""


@pytest.fixture
def issued(run_planted, tmp_path):
    """How a run of two windows ends with this line before their steps."""

    def issued(fault: str) -> tuple[int, str]:
        keys = "platform=cpu", "train.steps=6", "train.log_every_steps=4"
        run = f"run.dir={tmp_path / 'run'}"
        done = run_planted(GUARDED.format(fault=fault), "launch/jax.py", *keys, run)
        return done.returncode, done.stderr

    return issued


def test_issuing_a_step_of_jax_moves_nothing_between_host_and_devices(issued):
    code, told = issued("pass")
    assert code == 0, told


def test_a_batch_placed_with_its_step_would_be_seen(issued):
    code, told = issued("jax.device_put(numpy.zeros(3))")
    assert code != 0 and "Disallowed host-to-device transfer" in told
