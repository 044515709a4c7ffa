"""Check a custom model before training it, within seconds.

    python launch/own.py check FOLDER [experiment=digits_cnn ...]

Compares the twins in fp64, from the same random weights and batch: names and shapes of
leaves, then every module's output, gradients, running statistics and evaluation. Exits
0 if they are the same, 1 if they differ, 2 if they could not be compared.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import sys
import tempfile
from collections.abc import Sized
from pathlib import Path

import numpy as np
import safetensors.numpy
from rich.console import Console

from launch.cli import end_by_exception, hydra_main, say
from launch.leaves import ask_twins
from launch.trace import show_layers
from launch.trainings import quoted
from recipe.config import Config
from recipe.study import FRAMEWORKS
from record.trace import read_trace
from report.parity.bounds import IDENTICAL
from report.parity.trace import Traced, TraceVerdict, compare_traces
from runtime.processes import Processes
from runtime.world import check_world

USAGE = "usage: python launch/own.py check FOLDER [experiment=digits_cnn key=value ...]"
BATCH = 8  # examples: enough for statistics, few enough to take seconds


def check(config: Config) -> None:
    """Run both twins, compare, print.

    Raises:
      ConfigError: if they could not be run.
      SystemExit: 1 if they differ.
    """
    check_world(config, Processes())
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wrong = ask_twins(config, folder, "step")
        for line in wrong:
            say(console, line)
        if wrong:
            say(
                console,
                f"verdict: different, {counted(wrong)}; docs/own-layers.md has the "
                "rule of names",
            )
            raise SystemExit(1)
        torch, jax = (
            (
                read_trace(folder / framework, 1),
                safetensors.numpy.load_file(folder / framework / "after.safetensors"),
            )
            for framework in FRAMEWORKS
        )
    verdict = hold(Path(str(config.model.folder)).name, torch, jax)
    show_layers(verdict, console)
    say(console, f"verdict: {verdict.verdict}, by {verdict.decided_by}")
    if verdict.verdict != IDENTICAL:
        say(console, verdict.message)
        say(console, f"suspect: {verdict.suspects}")
        raise SystemExit(1)
    say(
        console,
        f"{counted(torch[1])}, every module's output, the gradients, the running "
        "statistics and evaluation are the same",
    )


def counted(leaves: Sized) -> str:
    """How many there are, in words."""
    return f"{len(leaves)} {'leaf' if len(leaves) == 1 else 'leaves'}"


def hold(name: str, torch: Traced, jax: Traced) -> TraceVerdict:
    """Compare the twins' step 0, of the model `name`."""
    return compare_traces(
        torch,
        jax,
        [],
        experiment=name,
        precision="fp64",
        reach=np.inf,  # both have the same weights, however far from zero
    )


def keys(arguments: list[str]) -> list[str]:
    """The command line as a config.

    Raises:
      SystemExit: 2 if it is not a check of a folder.
    """
    if len(arguments) < 2 or arguments[0] != "check" or "=" in arguments[1]:
        print(f"error: {USAGE}", file=sys.stderr)
        raise SystemExit(2)
    _, folder, *rest = arguments
    fixed = ("precision", "model", "model.folder", "train.global_batch_size", "devices")
    for typed in rest:
        if typed.partition("=")[0].lstrip("+") in fixed:
            print(
                f"error: {typed}: the check is of the folder's model, in fp64, on one "
                f"device and {BATCH} examples; leave it out",
                file=sys.stderr,
            )
            raise SystemExit(2)
    chosen = any(typed.startswith("experiment=") for typed in rest)
    return [
        *([] if chosen else ["experiment=digits_cnn"]),
        *rest,
        "model=custom",
        f"model.folder={quoted(Path(folder).absolute())}",
        *("precision=fp64", f"train.global_batch_size={BATCH}"),
        *("platform=cpu", "devices=1"),
    ]


if __name__ == "__main__":
    end_by_exception()
    sys.argv[1:] = keys(sys.argv[1:])
    hydra_main(check, config_name="config", schema=Config, rank=0)
