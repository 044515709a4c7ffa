"""Whether the twins of a user's own model hold what its shapes.py lists, and no more.

Asked before anything is trained, of both twins at once, each in a process of its own.
"""

import os
import subprocess
import sys
from dataclasses import fields

from launch.overrides import ROOT
from recipe.config import Config, to_yaml
from recipe.errors import ConfigError

FRAMEWORKS = ("torch", "jax")
# Nothing is computed: no GPU is to be taken for it.
NO_DEVICE = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def check_own_leaves(config: Config) -> None:
    """Refuse a model of the user's own that is not as its weight_shapes say.

    Raises:
      ConfigError: naming every leaf that differs, in both twins.
    """
    if config.model.folder is None:
        return
    given = to_yaml(Config(**{f.name: getattr(config, f.name) for f in fields(Config)}))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "launch.leaves_of", framework],
            cwd=ROOT,
            env={**os.environ, **NO_DEVICE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for framework in FRAMEWORKS
    ]
    wrong = []
    for framework, process in zip(FRAMEWORKS, started, strict=True):
        out, failure = process.communicate(given)
        if process.returncode:
            said = out.strip() or (failure.strip().splitlines() or ["no reason"])[-1]
            wrong.append(f"{framework}_model.py: {said}")
    if wrong:
        raise ConfigError(
            f"model.folder={config.model.folder}\n  " + "\n  ".join(wrong)
        )
