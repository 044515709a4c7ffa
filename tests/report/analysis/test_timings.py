"""What a run's rows hold between its steps, and rows that are none."""

import json

import pytest

from recipe.errors import RecordError
from report.analysis.timings import Evaluated, Window, read_between_steps

WARMUP = {
    "kind": "window",
    "steps": 2,
    "seconds": 1.5,
    "rank_seconds": [1.5, 1.4],
    "data_seconds": 0.3,
    "images_per_second": 16.0,
    "warmup": True,
}
TIMED = WARMUP | {"seconds": 0.5, "images_per_second": 48.0, "warmup": False}
EVALUATION = {"kind": "evaluation", "accuracy": 0.8}


@pytest.fixture
def rows(tmp_path):
    def write(*rows):
        lines = [json.dumps(row) for row in rows]
        (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path

    return write


def test_windows_before_an_evaluation_are_counted_and_later_ones_not(rows):
    nothing = EVALUATION | {"accuracy": None}
    run = rows(*stepped(WARMUP, TIMED, EVALUATION, TIMED, nothing))
    found = read_between_steps(run, [48.0, 48.0])
    assert found.evaluated == Evaluated((2.0,), (0.8,), (4,))
    assert found.windows == (Window(2, 0.5, (1.5, 1.4), 0.3),) * 2


def stepped(*rows):
    """The rows with what leads to them: two steps before each window."""
    found, steps = [], 0
    for row in rows:
        if row["kind"] == "window":
            found += [{"kind": "step", "step": steps + n} for n in (1, 2)]
            steps += 2
        found.append(row | {"step": steps})
    return found


def test_rounds_within_a_window_are_neither_steps_nor_windows(rows):
    *before, window = stepped(WARMUP, TIMED)
    run = rows(*before, {"kind": "round", "step": 3}, window)
    assert len(read_between_steps(run, [48.0]).windows) == 1


@pytest.mark.parametrize("told", [True, False])  # W&B does not
def test_windows_are_those_of_the_last_start(rows, told):
    slower = TIMED | {"seconds": 0.9}
    resume = [{"kind": "resume"}] * told
    run = rows(*stepped(WARMUP, slower, *resume, WARMUP, TIMED))
    found = read_between_steps(run, [48.0])
    assert [window.seconds for window in found.windows] == [0.5]


def test_a_hole_is_found_wherever_it_is(rows):
    whole = stepped(WARMUP, *[TIMED, EVALUATION] * 2)
    rates = [48.0, 48.0]
    assert read_between_steps(rows(*whole), rates).windows
    for start in range(len(whole) - 1):
        for stop in range(start + 1, len(whole)):
            if {row["kind"] for row in whole[start:stop]} == {"evaluation"}:
                continue  # nothing but the config says how many there should be
            with pytest.raises(
                RecordError, match="is not a row|does not end with the 2"
            ):
                read_between_steps(rows(*whole[:start], *whole[stop:]), rates)


def test_windows_of_another_speed_than_the_summarys_are_refused(rows):
    with pytest.raises(RecordError, match="the 1 timed windows of summary.json"):
        read_between_steps(rows(*stepped(WARMUP, TIMED)), [49.0])


@pytest.mark.parametrize(
    "harm", [{"steps": 0}, {"seconds": 0.0}, {"rank_seconds": None}, {"warmup": None}]
)
def test_a_row_that_is_none_is_refused_by_its_line(rows, harm):
    harmed = {k: v for k, v in (TIMED | harm).items() if k != "warmup" or v is not None}
    with pytest.raises(RecordError, match=r"metrics.jsonl line 6 is not a row"):
        read_between_steps(rows(*stepped(WARMUP, harmed)), [48.0])
