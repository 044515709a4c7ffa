"""Links as numbers, and the runs that a study plans over them."""

import pytest

from recipe.errors import ConfigError, RecordError
from recipe.links import Sent, burst_bytes, exchanged_bytes, fault, queue_bytes, sent
from recipe.study import StudyPlan, configurations

COUNTERS = """\
Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets
    lo:       0       0    0    0    0     0          0         0      7       1    0
  port: 6700000    4500    0    0    0     0          0         0 6650660      10    0
"""


def plan(**changed) -> StudyPlan:
    given = {"world_size": [2], "timed_seconds": None, "bandwidth_mbit": [100]}
    return StudyPlan(**({"name": "test", "regime": "strong"} | given | changed))


def test_each_strategy_is_run_over_each_link():
    strategies, links = ["dp", "local_sgd@8"], ["unlimited", 10]
    found = configurations(
        plan(framework=["jax"], parallel=strategies, bandwidth_mbit=links)
    )
    assert [point.configuration for point in found] == [
        *("jax-2-fp32-dp-unlimited", "jax-2-fp32-dp-10mbit"),
        *("jax-2-fp32-local_sgd-8-unlimited", "jax-2-fp32-local_sgd-8-10mbit"),
    ]
    own = found[3].overrides(64, "strong")
    assert own[1:3] == ["parallel=local_sgd", "parallel.every=8"]


def test_a_run_over_a_limited_link_takes_the_steps_that_are_timed():
    dp, limited = configurations(
        plan(framework=["torch"], bandwidth_mbit=["unlimited", 10])
    )
    assert dp.timed_alone(4) == []
    assert "train.steps=5" in limited.timed_alone(4)
    assert "train.log_every_steps=1" in limited.timed_alone(4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bandwidth_mbit": [0]}, "=0 must be a whole number of Mbit/s"),
        ({"bandwidth_mbit": ["fast"]}, "from 1 on, or unlimited"),
        ({"bandwidth_mbit": []}, "must name one value or more"),
        ({"world_size": [1, 2]}, "one process has no link; use world sizes from 2"),
        ({"timed_seconds": 3.0}, "set it to null"),
        ({"parallel": ["local_sgd"]}, "write local_sgd@64"),
        ({"parallel": ["local_sgd@0"]}, "the steps between two rounds"),
        ({"parallel": ["@8"]}, "the steps between two rounds"),
        ({"parallel": ["fsdp"]}, "of: dp, local_sgd@64, diloco@64"),
        ({"grad_sync": [True, False]}, "leave it at .true."),
        ({"rounds": 0}, "study.rounds must be at least 1"),
    ],
)
def test_what_no_link_can_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        plan(**wrong)


def test_a_link_that_did_not_reach_its_limit_or_exceeds_it_is_refused():
    assert not fault(0, 100, 90.0) and not fault(0, 100, 105.0)
    for measured in 89.9, 105.1, 0.0:
        assert f"duet-1 was limited to 100 Mbit/s and carried {measured:.4g}" in fault(
            1, 100, measured
        )
    assert not fault(0, "unlimited", 3.0)


def test_an_uncut_packet_passes_every_limit_at_once():
    for mbit in 1, 10, 1000, 10_000:
        assert burst_bytes(mbit) >= 65_536 + 14
        assert queue_bytes(mbit) >= 4 * burst_bytes(mbit)


def test_what_was_sent_is_the_interfaces_and_without_headers():
    assert sent(COUNTERS) == Sent(6_650_660, 10)
    assert sent(COUNTERS).payload == 6_650_000
    with pytest.raises(RecordError, match="no interface eth7"):
        sent(COUNTERS, "eth7")


def test_a_ring_of_two_sends_all_of_it_and_one_of_many_twice():
    assert exchanged_bytes(6.65e6, 2) == 6.65e6
    assert exchanged_bytes(6.65e6, 1024) == pytest.approx(2 * 6.65e6, rel=1e-3)
