"""The axis `study.parallel`: a strategy, perhaps with its steps between two rounds."""

import re
from collections.abc import Iterable

from recipe.errors import ConfigError

# Options of `conf/parallel/` whose devices exchange in rounds.
IN_ROUNDS = ("local_sgd", "diloco")


def every_of(value: str) -> int | None:
    """The steps between two rounds in a value of the axis; None where it has none.

    Raises:
      ConfigError: if that is not a number of steps.

    >>> every_of("dp"), every_of("local_sgd@64")
    (None, 64)
    """
    name, at, every = value.partition("@")
    if not at:
        return None
    if not (name and re.fullmatch(r"[1-9][0-9]{0,8}", every)):
        raise ConfigError(
            f"study.parallel={value}: write a strategy, or one with the steps "
            "between two rounds: local_sgd@64"
        )
    return int(every)


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

    Of one with rounds that with most rounds in as many steps: the others compute the
    same, and exchange it less often.

    >>> checked_strategies(["dp", "local_sgd@64", "local_sgd@8"])
    ['dp', 'local_sgd@8']
    """
    found: dict[str, str] = {}
    for value in sorted(values, key=lambda value: every_of(value) or 0):
        found.setdefault(value.partition("@")[0], value)
    return [value for value in values if value in found.values()]
