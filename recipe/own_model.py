"""A custom model: three files in a folder, loaded by path.

    shapes.py       weight_shapes(config) -> {canonical name: canonical shape}
                    dropout_rates(config) -> {layer's name: rate}, where it has any
    torch_model.py  build_model(config) -> torch.nn.Module
    jax_model.py    build_model(config) -> flax.nnx.Module

`docs/add-a-model.md` walks through one. A process loads its own framework's file only.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from recipe.errors import ConfigError, DuetError

FILES = ("shapes.py", "torch_model.py", "jax_model.py")

Kind = TypeVar("Kind")


def check_own_model(folder: str | None) -> None:
    """Refuse a folder that lacks one of the files; no folder is fine.

    Raises:
      ConfigError: naming the files that are missing.
    """
    if folder is None:
        return
    missing = [file for file in FILES if not Path(folder, file).is_file()]
    if missing:
        raise ConfigError(
            f"model.folder={folder} lacks {', '.join(missing)}; "
            "docs/add-a-model.md says what belongs there"
        )


def checked_kind(file: str, built: object, kind: type[Kind]) -> Kind:
    """Check what a file's build_model returns.

    Args:
      kind: the class of the framework's models.

    Raises:
      ConfigError: naming what it returns.
    """
    if isinstance(built, kind):
        return built
    given, wanted = (f"{t.__module__}.{t.__qualname__}" for t in (type(built), kind))
    raise ConfigError(
        f"{file}: build_model gives a {given}, and not a {wanted}; docs/own-layers.md "
        "shows how a module of Flax Linen, or plain functions, become one"
    )


def check_inputs(file: str, call: Callable[..., Any]) -> None:
    """Refuse a model that takes more than the images.

    Args:
      call: the model's `forward` or `__call__`, bound.

    Raises:
      ConfigError: naming what it takes.
    """
    kinds = Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD
    wanted = [
        name
        for name, p in signature(call).parameters.items()
        if p.default is Parameter.empty and p.kind in (*kinds, Parameter.KEYWORD_ONLY)
    ]
    if len(wanted) > 1:
        raise ConfigError(
            f"{file}: the model takes {', '.join(wanted)}, but it is called with one "
            "array, the images: several inputs (masks, lengths, a second sequence) "
            "are not supported. Give the others a default, or compute them from the "
            "images"
        )


@cache
def own_module(folder: str, file: str) -> ModuleType:
    """Import a file of the folder as a module; it can import its neighbours.

    Raises:
      ConfigError: if it cannot be imported, saying why.
    """
    path = Path(folder, file)
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for it
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


@contextmanager
def errors_in_a_line(file: str) -> Iterator[None]:
    """End the process with status 2 and one line if the user's code raises anything.

    Args:
      file: of the user, whose code runs here.
    """
    try:
        yield
    except DuetError as error:
        message = str(error)
    except Exception as error:
        message = in_words(error, file)
    else:
        return
    print(message, file=sys.stderr)
    raise SystemExit(2)


def in_words(error: Exception, file: str) -> str:
    """The error that the user's file raised, and its line.

    Args:
      file: its name.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.lineno for frame in frames if Path(frame.filename).name == file]
    last = f"{file}, by {Path(frames[-1].filename).name}:{frames[-1].lineno}"
    place = f"{file}, line {own[-1]}" if own else last
    text = " ".join(str(error).split())
    return f"{place}: {type(error).__name__}: {text[:400]}"
