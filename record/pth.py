"""Convert a `torch.save` file to .safetensors, in a separate process.

    python -m record.pth weights.pth weights.safetensors

PyTorch is imported here, so that a process that trains with JAX need not.
"""

import sys
from pathlib import Path
from typing import Any

import safetensors.numpy

from recipe.errors import ConfigError

# Keys under which checkpoints keep the model's state_dict.
WITHIN = ("state_dict", "model_state_dict", "model")


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 2 with one line on stderr."""
    source, target = map(Path, arguments)
    try:
        safetensors.numpy.save_file(read_state_dict(source), target)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read_state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a state_dict, or of a checkpoint that holds one, as arrays.

    Nothing else is unpickled: a pickle can run any program.

    Raises:
      ConfigError: if PyTorch is missing, or the file holds something else.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"needs PyTorch to be read; install it ({error}), or save the weights as "
            ".safetensors or .npz on a machine that has it"
        ) from error
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # from pickle, zipfile and torch
        raise ConfigError(
            "is damaged, or holds more than tensors, which could run any program; "
            "torch.save(model.state_dict(), FILE) is what is read "
            f"({type(error).__name__})"
        ) from error
    for name in WITHIN:
        if isinstance(saved, dict) and isinstance(saved.get(name), dict):
            saved = saved[name]
    tensors = {} if not isinstance(saved, dict) else saved
    arrays = {
        name: (t.float() if t.dtype == torch.bfloat16 else t).detach().numpy()
        for name, t in tensors.items()
        if isinstance(t, torch.Tensor)
    }
    if not arrays:
        raise ConfigError(
            f"holds a {type(saved).__name__} without tensors; "
            "torch.save(model.state_dict(), FILE) is what is read"
        )
    return {name: array.copy(order="C") for name, array in arrays.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
