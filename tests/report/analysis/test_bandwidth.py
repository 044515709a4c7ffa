"""Strategies over links: the model finds what was put in, and nothing else is said."""

from pathlib import Path

import pytest

from recipe.errors import RecordError
from recipe.links import PORT, exchanged_bytes
from report.analysis.bandwidth import CUT, bandwidth_panels, crossing, exchange_seconds
from report.analysis.links import RunLink, read_link
from report.analysis.recipes import Recipe
from report.analysis.timings import NOTHING, Evaluated, Rows, Window

COMPUTE, BATCH, PARAMETERS = 0.04, 64, 1_663_370
LINKS = {None: 20_000.0, 1000: 956.0, 100: 95.6, 10: 9.56}  # asked -> measured
EVERY = {"dp": None, "local-8": 8, "local-64": 64}


def recipe(name: str) -> Recipe:
    every = EVERY[name]
    keys = {} if every is None else {"parallel.every": every}
    return Recipe("workload", None, name, f"family of {name}", keys)


def rate(name: str, mbit: float, world_size: int = 2) -> float:
    exchange = exchange_seconds(4 * PARAMETERS, world_size, mbit)
    return BATCH / (COMPUTE + exchange / (EVERY[name] or 1))


@pytest.fixture
def panel(timed_run):
    """`panel(...)` of a framework whose every step takes what the model says."""

    def make(
        names=EVERY,
        repeats=3,
        faster=lambda *_: 1.0,
        accuracies=None,
        windows=lambda *_: (),
        left_out=0,
    ):
        runs, links, rows = [], {}, {}
        for name in names:
            for asked, mbit in LINKS.items():
                for repeat in range(repeats):
                    noise = 1 + (repeat - 1) / 1e4
                    run = timed_run(
                        rate(name, mbit) * faster(name, asked) * noise,
                        world_size=2,
                        parallel="dp" if EVERY[name] is None else "local_sgd",
                        config_hash=name,
                        parameters=PARAMETERS,
                        seed=repeat,
                    )
                    every = EVERY[name] or 1
                    sent = exchanged_bytes(4 * PARAMETERS, 2)
                    counted = ((every, 10), (3 * every, round(10 + 2 * sent)))
                    links[run.path] = RunLink(asked, (mbit, mbit), "reno", 1.0, counted)
                    runs.append(run)
                    found = (accuracies or {}).get(name, (0.5, 0.9))
                    steps = (1.0, 2.0), found, (1000, 2000)
                    at = Evaluated(*steps) if asked is None else NOTHING.evaluated
                    rows[run.path] = Rows(tuple(windows(name, asked)), at)
        recipes = {name: recipe(name) for name in names}
        (found,), skipped = bandwidth_panels(runs, links, recipes, rows, [])
        assert [s.reason for s in skipped] == [CUT] * left_out
        return found

    return make


def test_every_strategy_has_a_point_over_every_link(panel):
    found = panel()
    names = ["dp", "local SGD, H = 8", "local SGD, H = 64"]
    assert found.strategies == names
    for name in names:
        assert [p.asked for p in found.of(name)] == [10, 100, 1000, None]
        assert all(len(p.cell.runs) == 3 for p in found.of(name))
    assert {p.images_per_second.low is None for p in found.points} == {False}


def test_the_model_finds_the_computation_that_was_put_in(panel):
    found = panel()
    assert found.compute_seconds == pytest.approx(COMPUTE, rel=1e-2)
    assert all(abs(point.error) < 0.02 for point in found.points)


def test_a_strategy_slower_than_its_bytes_is_off_by_as_much(panel):
    found = panel(faster=lambda name, asked: 0.5 if asked == 10 else 1.0)
    for name in found.strategies:
        assert found.of(name)[0].error == pytest.approx(1.0, rel=0.03)


def test_windows_without_an_exchange_do_not_hide_the_one_with_it(panel):
    def windows(name, asked):
        lasted = (1.0, 1.0, 1.0, 5.0)  # the median knows of no exchange
        return [Window(16, seconds, (seconds,), None) for seconds in lasted]

    found = panel(["local-64"], windows=windows, left_out=9)  # those over limited links
    (unlimited,) = found.points
    assert unlimited.images_per_second.value == pytest.approx(64 * BATCH / 8.0)


def test_bytes_of_each_exchange_are_counted_over_whole_exchanges(panel):
    for point in panel().points:
        assert point.expected_bytes == 4 * PARAMETERS
        assert point.exchange_bytes.value == pytest.approx(4 * PARAMETERS, rel=1e-6)
    link = RunLink(10, (9.6,), "reno", 1.0, ((8, 900), (24, 1500)))
    assert link.bytes_per_exchange(8) == 300
    assert link.bytes_per_exchange(64) is None  # none took place
    assert link.bytes_per_exchange(8, [24]) == 300
    assert link.bytes_per_exchange(8, [16, 24]) is None  # another exchange did


def test_data_parallelism_stalls_where_the_exchange_takes_as_long_as_the_step(panel):
    seconds = exchange_seconds(4 * PARAMETERS, 2, panel().half_mbit)
    assert seconds == pytest.approx(COMPUTE, rel=0.5)  # between two points


def test_the_time_to_an_accuracy_is_as_many_steps_over_each_link(panel):
    # dp needs 1000 steps, local SGD 2000.
    later = {"dp": (0.9, 0.9), "local-8": (0.5, 0.9), "local-64": (0.5, 0.9)}
    found = panel(accuracies=later)
    assert found.target == 0.9
    for point in found.points:
        steps = 1000 if point.strategy == "dp" else 2000
        expected = steps * BATCH / point.images_per_second.value
        assert point.seconds_to.value == pytest.approx(expected)
    # Half as fast per step as local SGD, dp takes as long.
    at = found.crossings["local SGD, H = 64"]
    assert exchange_seconds(4 * PARAMETERS, 2, at) == pytest.approx(COMPUTE, rel=0.5)
    assert panel().crossings["local SGD, H = 64"] is None  # it is sooner over each


def test_an_accuracy_that_a_run_never_reached_has_no_time(panel):
    found = panel(accuracies={"dp": (0.9, 0.9), "local-8": (), "local-64": (0.9, 0.9)})
    assert found.target is None
    assert all(point.seconds_to is None for point in found.points)


def test_far_apart_more_bandwidth_and_fewer_exchanges_are_never_slower(panel):
    far = panel().far
    for name in panel().strategies:
        own = [p.images_per_second for p in far if p.strategy == name]
        assert own == sorted(own)
    of = {(p.strategy, p.mbit): p.efficiency for p in far}
    assert (
        of["dp", 100] < of["local SGD, H = 8", 100] < of["local SGD, H = 64", 100] < 1
    )


def test_a_ratio_is_passed_between_two_points_and_nowhere_else():
    assert crossing([10, 1000], [10.0, 0.1]) == pytest.approx(100)
    assert crossing([10, 100, 1000], [4.0, 2.0, 1.5]) is None
    assert crossing([], []) is None


def test_without_a_parity_check_the_reason_is_given(panel):
    assert "no parity check of digits_cnn" in panel(["dp"]).withheld["dp"]


def test_a_run_over_a_port_without_its_link_is_refused(tmp_path):
    network = {"network_settings": {"GLOO_SOCKET_IFNAME": PORT}}
    assert read_link(tmp_path, {"network_settings": None}) is None
    with pytest.raises(RecordError, match="is not known without link.json"):
        read_link(tmp_path, network)
    Path(tmp_path / "link.json").write_text('{"asked_mbit": 10}')
    with pytest.raises(RecordError, match="does not describe a link"):
        read_link(tmp_path, network)
