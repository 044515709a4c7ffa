"""What rank 0 prints: progress while a run trains, and a table when it is done.

On a terminal a bar that moves; elsewhere, as in a SLURM log, plain lines of at most 80
columns, one for each window and evaluation.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from recipe.config import Config
from recipe.execution import Strategy
from record.weights import describe_weights

MISSING = "–"

Row = dict[str, Any]


def open_screen(
    config: Config,
    *,
    framework: str,
    world_size: int,
    steps: int,
    console: Console | None = None,
) -> "Screen":
    """The screen of a run of `steps` optimizer steps; open it on rank 0 alone.

    Args:
      world_size: devices of the whole run.
      console: where to write; default: stdout.
    """
    title = (
        f"{config.name} in {framework}: {steps} steps, world size {world_size}, "
        f"{config.parallel.name}, {config.precision.name}"
    )
    if config.federated is not None:
        clients = config.federated.clients
        chosen = max(1, round(config.federated.fraction * clients))
        title += f"; each step is a round of {chosen} of {clients} clients"
    if config.parallel.name == Strategy.LOCAL_SGD:
        title += f"; {_rounds(config, world_size)}"
    if config.optim.ema_decay is not None:
        title += ", the weights' average is evaluated"
    title = "\n".join([title, *describe_weights(config)])
    return Screen(
        title, steps, console or _Console(file=cast(IO[str], _Lasting(sys.stdout)))
    )


def _rounds(config: Config, world_size: int) -> str:
    every = config.parallel.every
    if world_size == 1:
        return "one replica, so an ordinary training: devices=2 or torchrun adds some"
    when = "averaged at the end" if every is None else f"averaged every {every} steps"
    return f"{world_size} replicas, {when}"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Stop printing: rich would end the run on a broken pipe (`| head -1`)."""
        self.quiet = True
        # Python flushes stdout at its exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class _Lasting:
    """stdout, with a closed terminal (EIO) reported to rich as a broken pipe."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with _as_broken_pipe():
            return self._stream.write(text)

    def flush(self) -> None:
        with _as_broken_pipe():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _as_broken_pipe() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BrokenPipeError from error


class Screen:
    """A context manager; rows of `metrics.jsonl` go in as they are written."""

    def __init__(self, title: str, steps: int, console: Console):
        self._title, self._steps, self._console = title, steps, console
        # The latest text of each metric, as the bar and the lines show them.
        self._seen = dict.fromkeys(("loss", "accuracy", "rate", "left"), MISSING)
        self._progress: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._progress = Progress(
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("accuracy {task.fields[accuracy]}"),
                TextColumn("{task.fields[rate]} images/s"),
                TextColumn("{task.fields[left]} left"),
                console=console,
                expand=True,
                auto_refresh=False,  # no refresh thread while a window is timed
            )
            self._task = self._progress.add_task("", total=steps, **self._seen)

    def __enter__(self) -> Self:
        self._say(self._title)
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, row: Row) -> None:
        """Show a row; the screen changes once per window or evaluation."""
        step, kind = row["step"], row["kind"]
        if kind == "round":
            return
        if kind == "step":
            self._seen["loss"] = _number(row["loss"])
            return
        if kind == "federated":
            return
        if kind == "window" and row["measured"]:
            step = self._steps  # the extra steps are only timed
            self._seen["rate"] = _rate(row["images_per_second"])
            news = "measured {rate} images/s".format(**self._seen)
        elif kind == "window":
            seconds_left = (self._steps - step) * row["seconds"] / row["steps"]
            self._seen["rate"] = _rate(row["images_per_second"])
            self._seen["left"] = _clock(seconds_left)
            news = "loss {loss}  {rate} images/s  {left} left".format(**self._seen)
        else:
            self._seen["accuracy"] = _fraction(row["accuracy"])
            news = f"test loss {_number(row['loss'])}"
            if row["accuracy"] is not None:
                news += f"  accuracy {self._seen['accuracy']}"
        if self._progress:
            self._progress.update(
                self._task, completed=step, refresh=True, **self._seen
            )
        else:
            width = len(str(self._steps))
            self._say(f"step {step:>{width}}/{self._steps}  {news}")

    def close_table(self, summary: dict[str, Any]) -> None:
        """Print the run's results: `summary.json` as a table, then the run folder."""
        if self._progress:
            self._progress.stop()
        table = Table("", "", show_header=False)
        table.columns[1].overflow = "fold"
        for name, value in _closing_rows(summary, self._seen["loss"]):
            table.add_row(Text(name), Text(value))
        self._console.print(table)
        # Below the table, so that a long path is not wrapped and can be copied.
        self._say(f"run folder: {summary.get('run_dir') or MISSING}")

    def _say(self, line: str) -> None:
        # As Text, since a name may contain what rich takes for markup or an emoji.
        self._console.print(Text(line), soft_wrap=True)


def _closing_rows(summary: dict[str, Any], loss: str) -> list[tuple[str, str]]:
    test = summary.get("test") or {}
    rate = summary.get("images_per_second") or {}
    median = _rate(rate.get("median"))
    if median != MISSING:
        median += f" (median of {len(rate.get('windows') or [])} windows)"
    plain = ("framework", "experiment", "data", "model", "world_size", "precision")
    plain += ("parallel", "steps")
    rows = [(key.replace("_", " "), _text(summary.get(key))) for key in plain]
    rows += [("final loss", loss), ("test loss", _number(test.get("loss")))]
    rows += [  # None without classes
        (f"test {key}", _fraction(test[key]))
        for key in ("accuracy", "precision", "recall", "f1")
        if test.get(key) is not None
    ]
    cached = ", from the cache" if summary.get("compile_cached") else ""
    return [
        *rows,
        ("images/s", median),
        ("compile", _seconds(summary.get("compile_seconds")) + cached),
        ("startup", _seconds(summary.get("startup_seconds"))),
        ("peak memory", _memory(summary.get("peak_memory_bytes"))),
        ("status", _text(summary.get("status"))),
    ]


def _text(value: object) -> str:
    return MISSING if value is None else str(value)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"


def _fraction(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}"


def _rate(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f} s"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _memory(value: int | None) -> str:
    if value is None:
        return MISSING
    gib = value / 2**30
    return f"{gib:.2f} GiB" if gib >= 1 else f"{value / 2**20:.1f} MiB"
