"""The leaves of both twins of a custom model, each from a separate process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from launch.overrides import ROOT
from recipe.config import Config, to_yaml
from recipe.dropout import own_rates, rate_leaves
from recipe.errors import ConfigError
from recipe.leaves import wrong_leaves
from recipe.own_model import in_words
from recipe.study import FRAMEWORKS
from recipe.weights import weight_shapes

# Little is computed, so no GPU is used.
NO_DEVICE = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}

Leaves = dict[str, tuple[int, ...] | float]


def check_own_leaves(config: Config) -> None:
    """Refuse a custom model whose twins and weight_shapes differ.

    Raises:
      ConfigError: naming every leaf that differs, those in one twin alone first.
    """
    if config.model.folder is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        wrong = ask_twins(config, Path(folder))
    if wrong:
        raise ConfigError(
            f"model.folder={config.model.folder}\n  "
            + "\n  ".join(wrong)
            + "\ndocs/own-layers.md says how leaves are named and laid out"
        )


def ask_twins(config: Config, folder: Path, *more: str) -> list[str]:
    """Have each twin write its leaves to `folder/torch` and `folder/jax`.

    Args:
      more: "step" for a step as well, if no leaf differs.

    Returns:
      Lines about the leaves that differ.

    Raises:
      ConfigError: if one of the user's files fails, with its message.
    """
    listed = listed_leaves(config)
    (folder / "config.yaml").write_text(
        to_yaml(Config(**{f.name: getattr(config, f.name) for f in fields(Config)}))
    )
    started = [_start(framework, folder, *more) for framework in FRAMEWORKS]
    failed = []
    try:
        for framework, process in zip(FRAMEWORKS, started, strict=True):
            _, lines = process.communicate()
            if process.returncode:
                failed.append(_failure(framework, process.returncode, lines))
    finally:
        for process in started:
            process.kill()
    if failed:
        raise ConfigError(
            f"model.folder={config.model.folder}\n  " + "\n  ".join(failed)
        )
    torch, jax = (_held(folder / framework) for framework in FRAMEWORKS)
    return wrong_leaves(torch, jax, listed)


def _failure(framework: str, status: int, lines: str) -> str:
    """Why a twin's process failed: the signal that killed it, else its last line.

    Args:
      status: as of subprocess, where minus a signal's number means killed by it.
      lines: what it wrote to stderr.
    """
    last = (lines.strip().splitlines() or [""])[-1]
    if status > 0 and last:
        return last
    ended = f"exit status {status}"
    if status < 0:
        ended = f"killed by {signal.Signals(-status).name}"
    if status == -signal.SIGKILL:  # so the kernel ends what takes too much
        last = "not enough memory?"
    return f"{framework}_model.py: {ended}: {last or 'it printed nothing'}"


def _held(folder: Path) -> Leaves:
    held = json.loads((folder / "leaves.json").read_text())
    return {n: tuple(of) if isinstance(of, list) else of for n, of in held.items()}


def listed_leaves(config: Config) -> Leaves:
    """The leaves in shapes.py; for dropout layers their rates.

    Raises:
      ConfigError: if it fails, with its message.
    """
    try:
        return {**weight_shapes(config), **rate_leaves(own_rates(config))}
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(in_words(error, "shapes.py")) from error


def _start(framework: str, folder: Path, *more: str) -> "subprocess.Popen[str]":
    (folder / framework).mkdir()
    with (folder / "config.yaml").open() as given:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.own_twin", framework]
            + [str(folder / framework), *more],
            cwd=ROOT,
            env={**os.environ, **NO_DEVICE},
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
