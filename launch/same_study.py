"""Whether a folder's study.json is of the requested study."""

from typing import Any

from recipe.renamed import FIELDS, with_new_key
from recipe.study import AXES

# Keys that must be equal for a study to continue in a folder.
IDENTITY = (
    *("name", "regime", "recipe", "parity", "order", "timed_seconds", "cluster"),
    *("rounds", "seeds"),
)
EARLIER = {"rounds": 4, "seeds": False}  # of a study.json that lacks them


def differences(held: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """How two study.json differ, a line for each key.

    Args:
      held: of the folder; may have old names of keys.
    """
    held, lines = EARLIER | _with_new_names(held), []
    for key in (key for key in IDENTITY if held[key] != asked[key]):
        if key in ("recipe", "parity"):
            more = [f"{o} is asked for" for o in asked[key] if o not in held[key]]
            less = [f"{o} is not asked for" for o in held[key] if o not in asked[key]]
            changes = more + less
        else:
            now, was = _settings(key, asked), _settings(key, held)
            changed = [n for n in now | was if now.get(n) != was.get(n)]
            changes = [f"{n} is {now.get(n)}, was {was.get(n)}" for n in changed]
        lines += changes or [f"its {key} differs"]
    return lines


def _with_new_names(held: dict[str, Any]) -> dict[str, Any]:
    typed = {key: [with_new_key(o) for o in held[key]] for key in ("recipe", "parity")}
    order = [{FIELDS.get(k, k): v for k, v in cell.items()} for cell in held["order"]]
    return held | typed | {"order": order}


def _settings(key: str, description: dict[str, Any]) -> dict[str, Any]:
    """The keys behind one part of a description, with their values."""
    value = description[key]
    if key == "cluster":
        return {f"cluster.{name}": value[name] for name in value}
    if key != "order":
        return {f"study.{key}": value}
    axes = {f"study.{a}": sorted({c.get(a) for c in value}, key=str) for a in AXES}
    repeats = max(cell["repeat"] for cell in value)
    seed = description["order_seed"]
    return axes | {"study.repeats": repeats, "study.order_seed": seed}
