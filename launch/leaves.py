"""Whether the twins of a user's own model hold what its shapes.py lists, and no more.

Asked before anything is trained, of both twins at once: each builds its model in a
process of its own, which is given the config and says every leaf that differs:

    python -m launch.leaves torch < config.yaml
"""

import os
import subprocess
import sys
from dataclasses import fields

from launch.overrides import ROOT
from recipe.config import Config, from_yaml, to_yaml
from recipe.errors import ConfigError
from recipe.weights import check_leaves, initial_weights

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
            [sys.executable, "-m", "launch.leaves", framework],
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


def leaves_of(framework: str, config: Config) -> dict[str, tuple[int, ...]]:
    """Canonical name -> canonical shape of all that a twin's model holds."""
    if framework == "torch":
        from torch_impl.model import build_model
        from torch_impl.weights import leaf_shapes
    else:
        from jax_impl.model import build_model
        from jax_impl.weights import leaf_shapes
    return leaf_shapes(build_model(config))


if __name__ == "__main__":
    CONFIG = from_yaml(sys.stdin.read())
    try:
        check_leaves(leaves_of(sys.argv[1], CONFIG), initial_weights(CONFIG))
    except ConfigError as error:
        print(error)
        raise SystemExit(2) from None
