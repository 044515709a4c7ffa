"""What a run's rows hold between its steps, and rows that are none."""

import json

import pytest

from recipe.errors import RecordError
from report.accuracy import Evaluated
from report.rows import Window, read_between_steps

WARMUP = {
    "kind": "window",
    "steps": 2,
    "seconds": 1.5,
    "rank_seconds": [1.5, 1.4],
    "data_seconds": 0.3,
    "warmup": True,
}
TIMED = WARMUP | {"seconds": 0.5, "warmup": False}


@pytest.fixture
def rows(tmp_path):
    def write(*rows):
        lines = [json.dumps(row) for row in rows]
        (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path

    return write


def test_windows_before_an_evaluation_are_counted_and_later_ones_not(rows):
    evaluation = {"kind": "evaluation", "accuracy": 0.8, "step": 4}
    nothing = evaluation | {"accuracy": None}
    steps = {"kind": "step", "step": 1}
    run = rows(steps, WARMUP, TIMED, evaluation, TIMED, nothing)
    found = read_between_steps(run)
    assert found.evaluated == Evaluated((2.0,), (0.8,), (4,))
    assert found.windows == (Window(2, 0.5, (1.5, 1.4), {"data": 0.3}),) * 2


def test_windows_are_those_of_the_last_start(rows):
    slower = TIMED | {"seconds": 0.9}
    run = rows(WARMUP, slower, {"kind": "resume"}, WARMUP, TIMED)
    assert [window.seconds for window in read_between_steps(run).windows] == [0.5]


@pytest.mark.parametrize(
    "harm", [{"steps": 0}, {"seconds": 0.0}, {"rank_seconds": None}, {"warmup": None}]
)
def test_a_row_that_is_none_is_refused_by_its_line(rows, harm):
    harmed = {k: v for k, v in (TIMED | harm).items() if k != "warmup" or v is not None}
    with pytest.raises(RecordError, match=r"metrics.jsonl line 2 is no row"):
        read_between_steps(rows(WARMUP, harmed))
