"""One twin's part of an export: its files, and on request the logits to compare with.

    python -m launch.export_twin torch|jax FOLDER WHAT...

FOLDER holds config.yaml and weights.safetensors. Each of WHAT is a format, whose file
and facts are written to FOLDER, or `logits`, the model's of the test set as the twin
evaluates it. Exit status 2 with one line if it cannot. A separate process, since it
imports a framework.
"""

import json
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

from launch.own_twin import world_of
from recipe.config import from_yaml
from recipe.errors import DuetError
from recipe.formats import FORMATS

CONFIG, WEIGHTS, LOGITS = "config.yaml", "weights.safetensors", "logits.npy"


def main(framework: str, folder: Path, *wanted: str) -> None:
    """Write to the folder what is wanted.

    Raises:
      DuetError: naming the format that the model has none of, and why.
    """
    config = from_yaml((folder / CONFIG).read_text())
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    world = world_of(framework, config)
    if framework == "torch":
        from torch_impl.evaluate import predict_test_set
        from torch_impl.export import write_model
    else:
        from jax_impl.evaluate import predict_test_set
        from jax_impl.export import write_model
    for format in wanted:
        try:
            if format == "logits":
                np.save(folder / LOGITS, predict_test_set(config, world, weights))
                continue
            facts = write_model(config, weights, format, folder / FORMATS[format].file)
        except Exception as error:  # of the exporters, and of a custom model's code
            text = " ".join(str(error).split())
            kind = "" if isinstance(error, DuetError) else f"{type(error).__name__}: "
            raise DuetError(f"{format}: {kind}{text[:600]}") from error
        (folder / f"{format}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    framework, place, *rest = sys.argv[1:]
    try:
        main(framework, Path(place), *rest)
    except DuetError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
