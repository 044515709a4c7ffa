"""Files of weights: what a run starts from, and what other projects can read.

A file is `.safetensors`, `.npz` or PyTorch's `.pth`, of named arrays in any layout of
`recipe/layouts.py`; a run folder's `final.safetensors` is one in the canonical layout.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.layouts import from_layout, to_layout
from recipe.prefixes import brief, check_prefixes
from recipe.weights import (
    Weights,
    drawn_weights,
    initial_weights,
    is_trained,
    new_head,
    perturbed,
    weight_dtype,
    weight_shapes,
)

DAMAGED = (EOFError, TypeError, ValueError)
SAVED_BY_TORCH = (".pth", ".pt")
REPOSITORY = Path(__file__).resolve().parent.parent


def check_weights(config: Config) -> None:
    """Refuse a `model.weights` that cannot be read or does not fit.

    And prefixes that name no layer, which only a model's shapes tell.

    Raises:
      ConfigError: naming the file, and the array with its shape; or the prefix.
    """
    if config.train.freeze or config.optim.lr_factors:
        check_prefixes(config, filter(is_trained, weight_shapes(config)))
    if config.model.weights is not None:
        starting_weights(config)


def starting_weights(config: Config) -> Weights:
    """The weights of `model.weights`, or freshly drawn ones where it is null.

    With `model.head=new` the head's are drawn, and the others are the file's.

    Raises:
      ConfigError: if the file cannot be read, or does not fit the model.
    """
    if config.model.weights is None:
        return initial_weights(config)
    path = Path(config.model.weights)
    try:
        loaded = from_layout(config, read_arrays(path))
    except ConfigError as error:
        raise ConfigError(f"model.weights={path}: {error}") from error
    if config.model.head is None:
        weights = loaded
    else:  # in forward order, as without a file
        weights = {
            name: loaded.get(name, w) for name, w in drawn_weights(config).items()
        }
    dtype = weight_dtype(config)
    return perturbed(config, {name: w.astype(dtype) for name, w in weights.items()})


def describe_weights(config: Config) -> list[str]:
    """A line on what `model.weights` gave and what was drawn, one on what is frozen."""
    lines, drawn = [], new_head(config)
    if config.model.weights is not None:
        taken = brief(n for n in weight_shapes(config) if n not in drawn)
        new = f"; drawn from train.seed: {brief(drawn)}" if drawn else ""
        lines.append(f"{taken} from {config.model.weights}{new}")
    if config.train.freeze:
        lines.append(f"frozen: {', '.join(config.train.freeze)}")
    return lines


def read_arrays(path: Path) -> Weights:
    """Every array of a file, by name.

    Raises:
      ConfigError: if it cannot be read, or is of another type.
    """
    if path.suffix in SAVED_BY_TORCH:
        return _read_by_torch(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ConfigError("is not a .safetensors, .npz, .pth or .pt file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        else:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
    # TypeError: a dtype that NumPy lacks, or a bare array by this name.
    except (SafetensorError, BadZipFile, OSError, *DAMAGED) as error:
        raise ConfigError(f"cannot be read: {error}") from error


def _read_by_torch(path: Path) -> Weights:
    """Every array of a `torch.save` file, read in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "weights.safetensors")
        done = subprocess.run(
            [sys.executable, "-m", "record.pth", path.absolute(), target],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # Ctrl-C is handled by the run, later
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise ConfigError(lines[-1].removeprefix("error: "))
        return read_arrays(target)


def export_weights(config: Config, weights: Weights, layout: str, path: Path) -> None:
    """Write canonical arrays in another project's layout.

    Args:
      path: a `.safetensors` or `.npz` file; replaced if it exists.

    Raises:
      ConfigError: if the layout is unknown, or the file is of another kind.
    """
    arrays = to_layout(config, weights, layout)
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]  a keyword each
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        raise ConfigError(f"{path} is neither .safetensors nor .npz")
