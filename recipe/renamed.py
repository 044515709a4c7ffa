"""The one table of renamed config keys and options.

An old name on the command line is refused with the new one. Old names in run folders,
checkpoints and studies are replaced when these are read.
"""

from collections.abc import Mapping
from typing import Any

# Old -> new. A key stays in its group.
KEYS = {
    "train.global_batch": "train.global_batch_size",
    "train.accumulate": "train.grad_accum_steps",
    "train.window_steps": "train.log_every_steps",
    "train.nudge": "train.perturb_seed",
    "parallel.exchange": "parallel.grad_sync",
    "study.exchange": "study.grad_sync",
    "schedule.rise_fraction": "schedule.pct_start",
    "schedule.start_factor": "schedule.initial_factor",
    "schedule.drop_factor": "schedule.gamma",
}
# The same without groups: fields of records and lines of `config.yaml`.
FIELDS = {old.rpartition(".")[2]: new.rpartition(".")[2] for old, new in KEYS.items()}
# Group -> old option -> new.
OPTIONS = {"model": {"own": "custom"}}


def with_new_names(config: dict[str, Any]) -> dict[str, Any]:
    """A config, nested by group, with current names in place of old ones.

    >>> with_new_names({"train": {"accumulate": 2}, "model": {"name": "own"}})
    {'train': {'grad_accum_steps': 2}, 'model': {'name': 'custom'}}
    """
    return _renamed(config, KEYS, OPTIONS)


def with_first_names(config: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `with_new_names`; hashes of these names never change.

    >>> with_first_names({"train": {"grad_accum_steps": 2}})
    {'train': {'accumulate': 2}}
    """
    return _renamed(
        config,
        {new: old for old, new in KEYS.items()},
        {group: {new: old for old, new in of.items()} for group, of in OPTIONS.items()},
    )


def with_new_fields(given: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A flat object of a record, with current names of fields in place of old ones.

    Args:
      known: the fields that the object has in the current schema, by name.

    >>> with_new_fields({"global_batch": 8}, {"global_batch_size": int})
    {'global_batch_size': 8}
    """
    moved = {
        old: new
        for old, new in FIELDS.items()
        if old in given and new in known and new not in given
    }
    return {moved.get(name, name): value for name, value in given.items()}


def with_new_key(override: str) -> str:
    """An override, such as `study.json` holds, with its current name.

    >>> with_new_key("train.accumulate=8"), with_new_key("model=own")
    ('train.grad_accum_steps=8', 'model=custom')
    """
    key, equals, value = override.partition("=")
    return KEYS.get(key, key) + equals + OPTIONS.get(key, {}).get(value, value)


def _renamed(
    config: dict[str, Any], keys: dict[str, str], options: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Replace the names; an old one stays if its group also has the new one."""
    config = {k: dict(v) if isinstance(v, dict) else v for k, v in config.items()}
    for key, new_key in keys.items():
        group, _, name = key.partition(".")
        part, new = config.get(group), new_key.rpartition(".")[2]
        if isinstance(part, dict) and name in part and new not in part:
            part[new] = part.pop(name)
    for group, names in options.items():
        part = config.get(group)
        if isinstance(part, dict) and isinstance(part.get("name"), str):
            part["name"] = names.get(part["name"], part["name"])
    return config
