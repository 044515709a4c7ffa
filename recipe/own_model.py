"""A model of the user's own: three files in a folder, loaded by path.

    shapes.py       weight_shapes(config) -> {canonical name: canonical shape}
    torch_model.py  build_model(config) -> torch.nn.Module
    jax_model.py    build_model(config) -> flax.nnx.Module

`docs/add-a-model.md` walks through one. A process loads its own framework's file alone.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from recipe.errors import ConfigError

FILES = ("shapes.py", "torch_model.py", "jax_model.py")


def check_own_model(folder: str | None) -> None:
    """Refuse a folder that lacks one of the files; without a folder there is nothing.

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


@cache
def own_module(folder: str, file: str) -> ModuleType:
    """A file of the folder as a module; what it imports, it finds beside it too.

    Raises:
      ConfigError: if it cannot be imported, saying why.
    """
    path = Path(folder, file)
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles look for it
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module
