"""Has each format's file written, by a process of its framework."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from data.dataset import Dataset
from launch.leaves import NO_DEVICE
from launch.overrides import ROOT
from recipe.config import Config, to_yaml
from recipe.errors import ConfigError, DuetError
from recipe.formats import FORMATS
from recipe.labels import class_labels
from recipe.weights import Weights

MODULES = {"torch": "export_twin", "jax": "export_twin", "onnxruntime": "export_int8"}
CALIBRATION_IMAGES = 1024  # of the training images, evenly spaced


def write_files(
    config: Config,
    weights: Weights,
    framework: str,
    formats: list[str],
    dataset: Dataset,
    work: Path,
) -> dict[str, dict[str, Any]]:
    """Write each format's file to `work`, and the trained model's logits.

    Args:
      framework: that trained the model, and computes the logits to compare with.

    Returns:
      Format -> how its file is called.

    Raises:
      ConfigError: naming the format that the model cannot have, and why.
    """
    (work / "config.yaml").write_text(to_yaml(config))
    safetensors.numpy.save_file(weights, work / "weights.safetensors")
    np.save(work / "images.npy", dataset.test_images)
    # Evenly spaced, as images may be in the order of their classes.
    count = len(dataset.train_images)
    some = np.linspace(0, count - 1, min(count, CALIBRATION_IMAGES)).astype(int)
    np.save(work / "calibration.npy", dataset.train_images[some])
    conventions = {}
    if "safetensors" in formats:
        conventions["safetensors"] = _write_weights(config, weights, work)
    for writer in MODULES:
        wanted = [name for name in formats if FORMATS[name].writer == writer]
        if writer == framework:
            wanted.insert(0, "logits")
        if wanted:
            _write_by(writer, work, wanted)
    for name in formats:
        if name not in conventions:
            conventions[name] = json.loads((work / f"{name}.json").read_text())
    return conventions


def _write_weights(config: Config, weights: Weights, work: Path) -> dict[str, Any]:
    """The canonical arrays, with what a reader of the one file has to know."""
    layouts = {
        "convolutions": "HWIO",
        "dense": "(in, out)",
        "flattened": "H, W, C",
        "images": "NHWC",
    }
    facts = {
        "model": config.model.name,
        "labels": class_labels(config.data),
        "image_shape": config.data.image_shape,
        "mean": config.data.mean,
        "std": config.data.std,
        "layouts": layouts,
    }
    metadata = {name: json.dumps(value) for name, value in facts.items()}
    path = work / FORMATS["safetensors"].file
    # Not save_file, which lets nobody else read the file.
    path.write_bytes(safetensors.numpy.save(weights, metadata))
    return {"loader": "safetensors", "layouts": layouts}


def _write_by(writer: str, work: Path, wanted: Sequence[str]) -> None:
    own = [] if writer == "onnxruntime" else [writer]
    run_child(["-m", f"launch.{MODULES[writer]}", *own, str(work), *wanted], ROOT)


def run_child(arguments: list[str], folder: Path) -> None:
    """Run this interpreter on the CPU, and wait.

    Raises:
      ConfigError: with the process's own error.
      DuetError: with its last line, if it failed otherwise.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **NO_DEVICE},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines() or ["it printed nothing"]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        raise ConfigError(
            f"{errors[-1].removeprefix('error: ')}; nothing was written. Leave the "
            "format out, or change the model"
        )
    failure = DuetError(f"exit status {done.returncode}: {lines[-1]}")
    failure.exit_status = 1
    raise failure
