"""The screen tells how a run goes on a terminal, and the same plainly in a log."""

import io
import math

import pytest
from rich.console import Console

from record.screen import open_screen
from tests.record.runs import config

SUMMARY = {
    "framework": "jax",
    "experiment": "an-experiment",
    "data": "digits",
    "model": "mlp",
    "parallel": "dp",
    "precision": "fp32",
    "world_size": 4,
    "steps": 1000,
    "images_per_second": {"median": 12345.6, "windows": [12000.0, 12345.6, 13000.0]},
    "compile_seconds": 3.25,
    "startup_seconds": 1.5,
    "test": {
        "loss": 0.0625,
        "accuracy": 0.98125,
        "precision": 0.97,
        "recall": 0.96,
        "f1": 0.95,
    },
    "peak_memory_bytes": 3 * 2**29,
    "status": "finished",
    "run_dir": "/runs/" + "long-name-" * 12,
}


def step(number: int, loss: float) -> dict:
    return {"kind": "step", "step": number, "loss": loss, "epoch": 0}


def window(number: int) -> dict:
    speed = {"steps": 20, "seconds": 1.5, "images_per_second": 12345.6}
    return {"kind": "window", "step": number, **speed, "measured": False}


def evaluation(number: int, loss: float, accuracy: float | None) -> dict:
    return {"kind": "evaluation", "step": number, "loss": loss, "accuracy": accuracy}


def screen_of(rows, summary=None, *, terminal=False, steps=1000, name="an-experiment"):
    """What a run of these rows leaves on an 80-column screen."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, _environ={})
    run = config("none")
    run.name = name
    with open_screen(
        run, framework="jax", world_size=4, steps=steps, console=console
    ) as screen:
        for row in rows:
            screen.show(row)
        if summary is not None:
            screen.close_table(summary)
    return file.getvalue()


ROWS = [step(20, 2.3026), window(20), evaluation(500, 0.0625, 0.98125), window(500)]


def test_a_log_has_one_line_for_each_window_and_evaluation():
    title, *lines = screen_of([step(19, 2.4), *ROWS]).splitlines()
    assert "an-experiment" in title
    assert lines == [
        "step   20/1000  loss 2.303  12,346 images/s  0:01:14 left",
        "step  500/1000  test loss 0.0625  accuracy 0.9812",
        "step  500/1000  loss 2.303  12,346 images/s  0:00:38 left",
    ]


def test_a_log_has_no_control_codes():
    assert "\x1b" not in screen_of(ROWS, SUMMARY)
    assert "\r" not in screen_of(ROWS, SUMMARY)


def test_a_terminal_has_them():
    assert "\x1b" in screen_of(ROWS, SUMMARY, terminal=True)


def test_the_longest_line_of_a_log_fits_80_columns():
    last = 10_000_000
    rows = [step(1, -1.2345e-300), window(1), evaluation(last, -math.inf, 1.0)]
    lines = screen_of(rows, SUMMARY, steps=last).splitlines()
    folder = f"run folder: {SUMMARY['run_dir']}"
    assert max(len(line) for line in lines if line != folder) <= 80
    assert folder in lines  # in one piece, to be copied


def test_a_terminal_shows_the_step_loss_accuracy_speed_and_time_left():
    shown = screen_of(ROWS, terminal=True)
    for part in ("500/1000", "loss 2.303", "0.9812", "12,346 images/s", "0:00:38 left"):
        assert part in shown


def test_a_diverged_run_is_shown_as_it_is():
    shown = screen_of([step(20, math.nan), window(20), evaluation(20, math.inf, 0.1)])
    assert "loss nan" in shown
    assert "test loss inf" in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_the_closing_table_holds_the_summary(terminal):
    shown = screen_of(ROWS, SUMMARY, terminal=terminal)
    cells = [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in shown.splitlines()
        if line.startswith("│")
    ]
    assert cells == [
        ["framework", "jax"],
        ["experiment", "an-experiment"],
        ["data", "digits"],
        ["model", "mlp"],
        ["world size", "4"],
        ["precision", "fp32"],
        ["parallel", "dp"],
        ["steps", "1000"],
        ["final loss", "2.303"],
        ["test loss", "0.0625"],
        ["test accuracy", "0.9812"],
        ["test precision", "0.9700"],
        ["test recall", "0.9600"],
        ["test f1", "0.9500"],
        ["images/s", "12,346 (median of 3 windows)"],
        ["compile", "3.25 s"],
        ["startup", "1.50 s"],
        ["peak memory", "1.50 GiB"],
        ["status", "finished"],
    ]


def test_a_regression_shows_its_loss_alone():
    test = dict.fromkeys(("accuracy", "precision", "recall", "f1")) | {"loss": 0.5}
    shown = screen_of([evaluation(20, 0.5, None)], SUMMARY | {"test": test})
    assert "test loss" in shown
    for metric in ("accuracy", "precision", "recall", "f1"):
        assert f"test {metric}" not in shown


def test_a_run_that_failed_early_still_has_its_table():
    nothing = dict.fromkeys(SUMMARY) | {"status": "failed", "run_dir": "/runs/x"}
    nothing["images_per_second"] = {"median": None, "windows": []}
    shown = screen_of([], nothing)
    assert "failed" in shown
    assert "None" not in shown
    assert "–" in shown


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", ["[bold]x", "[/nope]", ":warning:", "x\\"])
def test_names_are_shown_as_they_are_written(name, terminal):
    shown = screen_of(
        ROWS, SUMMARY | {"experiment": name}, name=name, terminal=terminal
    )
    title, cell = (line for line in shown.splitlines() if name in line)
    assert title.startswith(f"{name} in jax")
    assert "experiment" in cell


def test_an_error_inside_leaves_the_terminal_usable():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, _environ={})
    with (
        pytest.raises(KeyboardInterrupt),
        open_screen(
            config("none"), framework="jax", world_size=1, steps=10, console=console
        ),
    ):
        raise KeyboardInterrupt
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert file.getvalue().rindex(show) > file.getvalue().rindex(hide)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_screen_says_where_an_average_is_evaluated(capsys, decay):
    run = config("none")
    run.optim.ema_decay = decay
    with open_screen(run, framework="jax", world_size=1, steps=10):
        pass
    said = "the weights' average is evaluated" in capsys.readouterr().out
    assert said == (decay is not None)


def test_messages_go_to_stdout(capsys):
    with open_screen(config("none"), framework="jax", world_size=1, steps=10):
        pass
    captured = capsys.readouterr()
    assert "an-experiment" in captured.out
    assert captured.err == ""
