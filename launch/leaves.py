"""Both twins of a user's own model, each asked in a process of its own at once."""

import json
import os
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
from recipe.weights import weight_shapes

FRAMEWORKS = ("torch", "jax")
# Little is computed: no GPU is to be taken for it.
NO_DEVICE = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}

Leaves = dict[str, tuple[int, ...] | float]


def check_own_leaves(config: Config) -> None:
    """Refuse a model of the user's own whose twins and weight_shapes are not alike.

    Raises:
      ConfigError: naming every leaf that differs, what one twin alone has first.
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
    """Have each twin leave in `folder/torch` and `folder/jax` what it holds.

    Args:
      more: "step" for the step as well; it is taken where no leaf is wrong.

    Returns:
      The leaves that are wrong, in words.

    Raises:
      ConfigError: if a file of the user's own fails, in its words.
    """
    listed = listed_leaves(config)
    (folder / "config.yaml").write_text(
        to_yaml(Config(**{f.name: getattr(config, f.name) for f in fields(Config)}))
    )
    started = [_start(framework, folder, *more) for framework in FRAMEWORKS]
    failed = []
    try:
        for process in started:
            _, lines = process.communicate()
            if process.returncode:
                failed.append((lines.strip().splitlines() or ["it said nothing"])[-1])
    finally:
        for process in started:
            process.kill()
    if failed:
        raise ConfigError(
            f"model.folder={config.model.folder}\n  " + "\n  ".join(failed)
        )
    torch, jax = (_held(folder / framework) for framework in FRAMEWORKS)
    return wrong_leaves(torch, jax, listed)


def _held(folder: Path) -> Leaves:
    held = json.loads((folder / "leaves.json").read_text())
    return {n: tuple(of) if isinstance(of, list) else of for n, of in held.items()}


def listed_leaves(config: Config) -> Leaves:
    """What shapes.py lists, of dropout layers the rates.

    Raises:
      ConfigError: if it fails, in its words.
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
