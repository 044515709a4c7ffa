"""What fine-tuning names by prefix: frozen layers, and factors on the learning rate.

A prefix is the canonical name of a layer, or of all layers that a dot continues:
`stage.1` is every layer of that stage, and none of `stage.10`.
"""

from collections.abc import Iterable

from recipe.config import Config
from recipe.errors import ConfigError


def is_frozen(config: Config, name: str) -> bool:
    """Whether `train.freeze` names this leaf or layer, or one that it is in."""
    return any(_begins(prefix, name) for prefix in config.train.freeze)


def lr_factor(config: Config, name: str) -> float:
    """The factor on a leaf's learning rate: of its longest prefix, else 1."""
    factors = config.optim.lr_factors or {}
    fitting = [prefix for prefix in factors if _begins(prefix, name)]
    return factors[max(fitting, key=len)] if fitting else 1.0


def check_prefixes(config: Config, trained: Iterable[str]) -> None:
    """Refuse prefixes without a layer, and a recipe that trains nothing.

    Args:
      trained: canonical names of all parameters of the model.

    Raises:
      ConfigError: naming the prefix, and the layers that there are.
    """
    names = list(trained)
    factors = config.optim.lr_factors or {}
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    given = {"train.freeze": config.train.freeze, "optim.lr_factors": list(factors)}
    for key, prefixes in given.items():
        for prefix in prefixes:
            if not any(_begins(prefix, layer) for layer in layers):
                raise ConfigError(
                    f"{key} names {prefix or 'nothing'}, which begins no layer of "
                    f"{config.model.name}; layers: {', '.join(layers)}"
                )
    if all(is_frozen(config, name) for name in names):
        raise ConfigError(
            f"train.freeze={_text(config.train.freeze)} freezes all of "
            f"{config.model.name}, so nothing is trained; leave out at least one of "
            f"{', '.join(layers)}"
        )
    for prefix, factor in factors.items():
        if all(is_frozen(config, n) for n in names if _begins(prefix, n)):
            raise ConfigError(
                f"optim.lr_factors gives {prefix} the factor {factor:g}, and "
                f"train.freeze={_text(config.train.freeze)} freezes it; leave one out"
            )


def brief(names: Iterable[str]) -> str:
    """What these leaves are parts of, in a few words.

    >>> brief(["stem.conv.kernel", "stage.0.conv.kernel", "stage.1.conv.kernel"])
    'stem, stage.0 to 1'
    """
    numbers: dict[str, list[str]] = {}
    for name in names:
        first, _, rest = name.partition(".")
        of, number = numbers.setdefault(first, []), rest.partition(".")[0]
        if number.isdigit() and number not in of:
            of.append(number)
    spans = {f: [n[0], n[-1]] if len(n) > 1 else n for f, n in numbers.items()}
    return ", ".join(f"{f}.{' to '.join(n)}" if n else f for f, n in spans.items())


def _begins(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _text(prefixes: list[str]) -> str:
    return f"[{','.join(prefixes)}]"
