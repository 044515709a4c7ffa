"""The axis `study.parallel`: a strategy, perhaps with its steps between two rounds."""

import re
from collections.abc import Iterable

from recipe.errors import ConfigError
from recipe.execution import Strategy

# Options of `conf/parallel/` whose devices exchange in rounds.
IN_ROUNDS = ("local_sgd", "diloco")

MOST_CHECKED = 8  # steps between two rounds of a parity check, at most


def every_of(value: str) -> int | None:
    """The steps between two rounds in a value of the axis; None where it has none.

    Raises:
      ConfigError: if that is not a number of steps.

    >>> every_of("dp"), every_of("local_sgd@64")
    (None, 64)
    """
    name, at, every = value.partition("@")
    if at and not (name and re.fullmatch(r"[1-9][0-9]{0,8}", every)):
        raise ConfigError(
            f"study.parallel={value}: write a strategy, or one with the steps "
            "between two rounds: local_sgd@64"
        )
    if name not in (*(str(s) for s in Strategy), *IN_ROUNDS):
        known = ", ".join(dict.fromkeys([*Strategy, *IN_ROUNDS]))
        raise ConfigError(f"study.parallel={value}: {name} is unknown; one of: {known}")
    return int(every) if at else None


def strategy_overrides(value: str) -> list[str]:
    """A run's overrides for a value of the axis.

    >>> strategy_overrides("dp"), strategy_overrides("local_sgd@64")
    (['parallel=dp'], ['parallel=local_sgd', 'parallel.every=64'])
    """
    every, own = every_of(value), [f"parallel={value.partition('@')[0]}"]
    return own if every is None else [*own, f"parallel.every={every}"]


def file_part(value: str) -> str:
    """What a folder's name says of a value of the axis.

    >>> file_part("local_sgd@64")
    'local_sgd-64'
    """
    return value.replace("@", "-")


def checked_strategies(values: Iterable[str]) -> list[str]:
    """Values of the axis that have a parity check: of each strategy one.

    Of one in rounds with many of them in the steps of a check: with fewer it computes
    the same, and exchanges it less often.

    >>> checked_strategies(["dp", "local_sgd@64", "local_sgd@500", "diloco@4"])
    ['dp', 'local_sgd@8', 'diloco@4']
    """
    found: dict[str, str] = {}
    for value in sorted(values, key=lambda value: every_of(value) or 0):
        name, every = value.partition("@")[0], every_of(value)
        checked = name if every is None else f"{name}@{min(every, MOST_CHECKED)}"
        found.setdefault(name, checked)
    return [found[name] for name in dict.fromkeys(v.partition("@")[0] for v in values)]
