"""What a run was asked to compute: its FLOPs, and what a parity check answers for."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.config import Config, ablated, from_yaml, leaves, recipe_hash, recipe_parts
from recipe.errors import ConfigError, RecordError
from recipe.flops import training_flops
from record.disk import read_text

# How long is trained and how much at once: a study's check has its own of these, since
# its bounds are for a hundred steps, and one check is for every point of a weak curve.
# And from which seed, which changes numbers and nothing that is computed with them.
# Nor is it of a workload after how many steps replicas of local SGD meet.
FREE = (
    *("steps", "epochs", "evaluate_every_epochs", "global_batch_size"),
    *("grad_accum_steps", "seed"),
)
# Of these keys a cell has one value anyway, or pools what has several.
OF_CELLS = ("name", "train.global_batch_size", "train.grad_accum_steps", "train.seed")


@dataclass(frozen=True)
class Recipe:
    """What all runs of one `config_hash` share.

    Args:
      workload: hash of the recipe but for its length, batch, seed and name, and for
        what an ablation disables.
      training_flops: of one example's forward and backward pass, None for a model that
        is not among Duet's own.
      config_hash: of this recipe; another than a run's where its config was changed.
      family: hash of the recipe but for its seed.
      keys: its values by key, but for what tells cells apart, seeds and ablations.
    """

    workload: str
    training_flops: int | None
    config_hash: str = ""
    family: str = ""
    keys: dict[str, Any] = field(default_factory=dict, hash=False)


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
      RecordError: if its config is missing or is none.
    """
    file = folder / "config.yaml"
    try:
        config = from_yaml(read_text(file))
    except ConfigError as error:
        raise RecordError(f"{file}: {error}") from error
    parts = recipe_parts(config)
    del parts["train"]["seed"]
    aside = {*OF_CELLS, *ablated(config)}
    keys = {key: value for key, value in leaves(parts) if key not in aside}
    return Recipe(
        workload(config), _flops(config), recipe_hash(config), _hash(parts), keys
    )


def workload(config: Config) -> str:
    """SHA-256 of the recipe without length, batch, seed, and what it is called.

    Two runs of one workload compute the same thing, the same learning rates included.
    """
    parts = recipe_parts(config)
    del parts["name"]
    for group, key in (name.split(".") for name in ablated(config)):
        del parts[group][key]
    parts.get("parallel", {}).pop("every", None)  # a check has many rounds
    if not parts.get("parallel"):  # of dp it held its ablation alone
        parts.pop("parallel", None)
    for key in FREE:
        del parts["train"][key]
    return _hash(parts)


def _hash(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _flops(config: Config) -> int | None:
    if config.model.folder is not None:
        return None  # what it computes is known to its own code alone
    try:
        return training_flops(config)
    except ConfigError:
        return None
