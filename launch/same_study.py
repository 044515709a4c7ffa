"""Whether a folder's study.json is that of the study that is asked for."""

from typing import Any

from recipe.renamed import FIELDS, with_new_key
from recipe.study import AXES

# What makes two studies the same, so that one may go on in the other's folder.
IDENTITY = (
    *("name", "regime", "recipe", "parity", "order", "timed_seconds", "cluster"),
)


def differences(held: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What makes one study.json another study's, key by key, in words.

    Args:
      held: of the folder; it may hold old names of keys.
    """
    held, told = _with_new_names(held), []
    for key in (key for key in IDENTITY if held[key] != asked[key]):
        if key in ("recipe", "parity"):
            more = [f"{o} is asked for" for o in asked[key] if o not in held[key]]
            less = [f"{o} is not asked for" for o in held[key] if o not in asked[key]]
            said = more + less
        else:
            now, was = _settings(key, asked), _settings(key, held)
            changed = [n for n in now | was if now.get(n) != was.get(n)]
            said = [f"{n} is {now.get(n)}, was {was.get(n)}" for n in changed]
        told += said or [f"its {key} differs"]
    return told


def _with_new_names(held: dict[str, Any]) -> dict[str, Any]:
    typed = {key: [with_new_key(o) for o in held[key]] for key in ("recipe", "parity")}
    order = [{FIELDS.get(k, k): v for k, v in cell.items()} for cell in held["order"]]
    return held | typed | {"order": order}


def _settings(key: str, description: dict[str, Any]) -> dict[str, Any]:
    """What was asked for to come to one part of a description, by key."""
    value = description[key]
    if key == "cluster":
        return {f"cluster.{name}": value[name] for name in value}
    if key != "order":
        return {f"study.{key}": value}
    axes = {f"study.{a}": sorted({c.get(a) for c in value}, key=str) for a in AXES}
    repeats = max(cell["repeat"] for cell in value)
    seed = description["order_seed"]
    return axes | {"study.repeats": repeats, "study.order_seed": seed}
