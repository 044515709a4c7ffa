"""Checks of single config values; errors name the key."""

import math
from pathlib import Path

from recipe.errors import ConfigError


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value} is unknown; one of: {', '.join(allowed)}")


def at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not least <= value < math.inf:
        finite = "finite and " if isinstance(value, float) else ""
        raise ConfigError(f"{key} must be {finite}at least {least}, got {value}")


def positive(key: str, value: float | None, null: str = "") -> None:
    """Refuse what is not above 0; `null` says that null is allowed as well."""
    if value is not None and not 0 < value < math.inf:
        raise ConfigError(f"{key} must be finite and > 0{null}, got {value}")


def fraction(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{key} must lie in [0, 1], got {value}")


def expanded(key: str, path: str) -> str:
    """The path with ~ expanded."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ConfigError(f"{key}={path}: {error}; write the path in full") from None
