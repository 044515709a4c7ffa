"""A trained model by its path, and its outputs for images, from another process."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from launch.outputs import config_of_evaluation, outputs_of
from launch.outside import outside
from recipe.errors import ConfigError, RecordError
from recipe.experiment import SPLIT, DataConfig
from recipe.formats import FORMATS
from recipe.labels import class_labels
from recipe.manifest import MANIFEST, check_files, read_manifest
from record.trained import Trained, read_trained

# What loads the formats that are not ONNX, see `launch/runtimes.py`.
PACKAGES = {"pt2": "torch", "stablehlo": "jax"}

Outputs = Callable[[UInt8[np.ndarray, "n H W C"]], Float[np.ndarray, "n K"]]


@dataclass(frozen=True)
class Model:
    """A model that can be given images.

    Args:
      image_shape, resize: of its images, see `data.prepare`.
      labels: what its outputs are called; empty for a regression.
      mean: of the training images' pixels in [0, 1], for each channel.
      outputs: logits of prepared images, or values.
    """

    image_shape: list[int]
    resize: str
    labels: list[str]
    mean: list[float]
    outputs: Outputs


def open_model(path: Path, framework: str | None) -> Model:
    """The model at a path: a run folder, an export folder or a file in one.

    Args:
      framework: "torch" or "jax", which evaluates a run; None for the one that trained
        it.

    Raises:
      DuetError: if it is none of these, or is incomplete.
    """
    if path.is_file() or (path / MANIFEST).is_file():
        return exported(path, framework)
    if not (path / "config.yaml").is_file():
        raise RecordError(
            f"{path} is neither a run folder, which has a config.yaml, nor an export, "
            f"which has a {MANIFEST}; give one, or a file of an export"
        )
    trained = read_trained(path)
    data = trained.config.data

    def outputs(pixels: UInt8[np.ndarray, "n H W C"]) -> Float[np.ndarray, "n K"]:
        return outputs_of_run(trained, framework or trained.framework, pixels)

    labels = class_labels(data)
    return Model(data.image_shape, data.resize, labels, data.mean, outputs)


def exported(path: Path, framework: str | None) -> Model:
    """An export folder's first file that computes, or a file of one.

    Raises:
      ConfigError: if there is none, or its package is missing.
      RecordError: if the file is not what the manifest says.
    """
    if framework is not None:
        raise ConfigError(
            f"--framework {framework} is for run folders, and {path} is exported: give "
            "the file of the format instead, such as model.onnx"
        )
    folder = path if path.is_dir() else path.parent
    manifest = read_manifest(folder, formats=())
    files = {
        name: entry.file
        for name, entry in manifest.files.items()
        if path.is_dir() or entry.file == path.name
    }
    if not files:
        raise RecordError(f"{folder / MANIFEST} does not list {path.name}")
    computing = [n for n in files if n in FORMATS and FORMATS[n].computes]
    if not computing:
        raise ConfigError(
            f"{path} holds weights alone; predict from another format, or from the run"
        )
    # Not first .pt2, which torch.export.load unpickles, so that it may run code.
    chosen = min(computing, key=lambda name: name == "pt2")
    package = PACKAGES.get(chosen, "onnxruntime")
    if find_spec(package) is None:
        raise ConfigError(f"{files[chosen]} needs {package}; pip install {package}")
    check_files(folder, manifest, [chosen])

    def outputs(pixels: UInt8[np.ndarray, "n H W C"]) -> Float[np.ndarray, "n K"]:
        with tempfile.TemporaryDirectory() as place:
            images, found = Path(place, "images.npy"), Path(place, "logits.npy")
            np.save(images, pixels)
            outside(chosen, folder / files[chosen], images, found)
            return np.load(found)

    pixels = manifest.pixels
    shape = [pixels.height, pixels.width, pixels.channels]
    return Model(shape, pixels.resize, manifest.labels, pixels.mean, outputs)


def outputs_of_run(
    trained: Trained, framework: str, pixels: UInt8[np.ndarray, "n H W C"]
) -> Float[np.ndarray, "n K"]:
    """The outputs of a run's weights, on one device, in fp32 or the run's fp64."""
    precision = "fp64" if trained.config.precision.name == "fp64" else "fp32"
    config = config_of_evaluation(trained.config, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        config.data = as_dataset(config.data, pixels, Path(folder, "images.npz"))
        return outputs_of(framework, config, trained.weights)


def as_dataset(
    data: DataConfig, pixels: UInt8[np.ndarray, "n H W C"], file: Path
) -> DataConfig:
    """Images written as the test set of a custom dataset, whose labels say nothing."""
    labels = np.full(len(pixels), data.label_offset)
    np.savez(
        file,
        train_images=pixels[:1],
        train_labels=labels[:1],
        test_images=pixels,
        test_labels=labels,
    )
    return replace(
        data,
        name="custom",
        files=str(file),
        train_examples=None,
        test_examples=None,
        noise=0.0,
        **SPLIT,
    )
