"""Keys of scripts that compose no recipe: `run=DIR formats=[onnx,pt2]`.

Values are text as typed, since `007` and `1_000` may be folders; other types are read
by the field.
"""

import dataclasses
import re
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from recipe.errors import ConfigError


def asked(arguments: list[str], schema: type, usage: str) -> Any:
    """The arguments as a dataclass, which checks its own values.

    Args:
      schema: a dataclass of str, int, list[str] and what may be None besides, typed as
        `null`. A field without a default has to be given; metadata of a field may have
        its `key`, if that has a dot.
      usage: what --help prints.

    Raises:
      ConfigError: naming the argument, and what is allowed.
      SystemExit: after --help.
    """
    if {"-h", "--help"} & {*arguments}:
        print(usage.strip())
        raise SystemExit(0)
    fields = {f.metadata.get("key", f.name): f for f in dataclasses.fields(schema)}
    kinds, given = get_type_hints(schema), {}
    for argument in arguments:
        key, equal, text = argument.partition("=")
        if not equal or key not in fields:
            near = get_close_matches(key.lstrip("-"), fields, 1, 0.6)
            hint = f"did you mean {near[0]}=...? " if near else ""
            raise ConfigError(
                f"{argument}: {hint}keys are {', '.join(f'{k}=' for k in fields)}; "
                "--help explains them"
            )
        name = fields[key].name
        given[name] = _value(key, text, kinds[name])
    needed = [
        key
        for key, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing := [key for key in needed if fields[key].name not in given]:
        raise ConfigError(
            f"give {', '.join(f'{key}=...' for key in missing)}; --help explains it"
        )
    return schema(**given)


def _value(key: str, text: str, kind: Any) -> Any:
    """A key's text as a value of its type."""
    if not text:
        raise ConfigError(f"{key}= is empty; give a value, or leave it out")
    if text == "null" and NoneType in get_args(kind):
        return None
    if kind is int:
        if not re.fullmatch("[0-9]{1,9}", text):
            raise ConfigError(f"{key}={text}: a whole number is expected")
        return int(text)
    if get_origin(kind) is list:  # of one, also without brackets
        inside = text.removeprefix("[").removesuffix("]")
        return [word.strip() for word in inside.split(",") if word.strip()]
    return text
