"""A trained model by its path, and its outputs for images, from another process."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from launch.evaluate import FRAMEWORKS, Asked, config_of_evaluation
from launch.outputs import outputs_of
from recipe.experiment import SPLIT, DataConfig
from record.trained import Trained, read_trained

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
    """The model at a path: a run folder.

    Args:
      framework: "torch" or "jax", which evaluates a run; None for the one that trained
        it.

    Raises:
      DuetError: if it is none, or is incomplete.
    """
    assert framework is None or framework in FRAMEWORKS
    trained = read_trained(path)

    def outputs(pixels: UInt8[np.ndarray, "n H W C"]) -> Float[np.ndarray, "n K"]:
        return outputs_of_run(trained, framework or trained.framework, pixels)

    data = trained.config.data
    return Model(data.image_shape, data.resize, data.labels, data.mean, outputs)


def outputs_of_run(
    trained: Trained, framework: str, pixels: UInt8[np.ndarray, "n H W C"]
) -> Float[np.ndarray, "n K"]:
    """The outputs of a run's weights, on one device, in fp32 or the run's fp64."""
    precision = "fp64" if trained.config.precision.name == "fp64" else "fp32"
    asked = Asked(
        run=trained.run,
        framework=framework,
        checkpoint=None,
        devices=1,
        platform="auto",
        precision=precision,
        root=None,
    )
    config = config_of_evaluation(trained.config, asked)
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
