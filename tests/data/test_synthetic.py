"""Made datasets: the same for ever, extensible, and neither hopeless nor trivial."""

import numpy as np
import pytest

from data import synthetic
from data.dataset import load
from recipe.errors import ConfigError

SIZES = {"train_examples": 2000, "test_examples": 1000}
SYNTHETIC = {**SIZES, "noise": 0.2}
LINE = {**SIZES, "classes": 0, "image_shape": [1, 1, 1]}


def nearest_template(dataset, channels: int = 1) -> np.ndarray:
    """The class whose template each test image is nearest to."""
    cells = synthetic.templates(channels, classes=10)
    templates = synthetic.spread(cells, dataset.test_images.shape[1:]).reshape(10, -1)
    images = dataset.test_images.reshape(len(dataset.test_images), -1) / 255
    # |x - t|^2 but for |x|^2, which no choice of t changes.
    return ((templates**2).sum(1) - 2 * images @ templates.T).argmin(1)


@pytest.mark.parametrize("shape", [[28, 28, 1], [32, 32, 3], [64, 48, 3]])
def test_a_model_can_learn_most_examples_but_not_all(config, shape):
    spread = {"mean": [0.5] * shape[2], "std": [0.25] * shape[2]}
    dataset = load(config("synthetic", image_shape=shape, **spread, **SYNTHETIC))
    right = nearest_template(dataset, shape[2]) == dataset.test_labels
    assert 0.85 < right.mean() < 0.96


def test_noise_makes_it_harder(config):
    loud = load(config("synthetic", **{**SYNTHETIC, "noise": 5.0}))
    assert (nearest_template(loud) == loud.test_labels).mean() < 0.8


def test_the_noise_is_gaussian_and_as_loud_as_configured():
    table = synthetic.normal_table()
    assert table.std() == pytest.approx(1, abs=1e-3)
    assert table.mean() == pytest.approx(0, abs=1e-6)
    assert (np.abs(table) < 1.959964).mean() == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("name, options", [("synthetic", SYNTHETIC), ("line", LINE)])
def test_a_larger_dataset_begins_with_a_smaller_one(config, name, options, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK", 28 * 28 * 7)
    small = load(config(name, **{**options, "train_examples": 40}))
    large = load(config(name, **options))
    for field in "train_images", "train_labels":
        np.testing.assert_array_equal(getattr(small, field), getattr(large, field)[:40])
    np.testing.assert_array_equal(small.test_images, large.test_images)
    assert small.fingerprint != large.fingerprint


@pytest.mark.parametrize("name, options", [("synthetic", SYNTHETIC), ("line", LINE)])
def test_test_examples_are_not_training_examples(config, name, options):
    dataset = load(config(name, **options))
    assert (dataset.train_images[:1000] != dataset.test_images).mean() > 0.5


@pytest.mark.parametrize(
    "name, options, golden",
    [
        (
            "synthetic",
            SYNTHETIC,
            "1008c13bfded99b0f2c4606aec1bba69919d3236c3db2027d1baf40a7b0300f2",
        ),
        (
            "line",
            {**LINE, "noise": 0.1},
            "9eba073880c2ce34e36ae0242f94cc2e9abfe19d4f6ba7a921da115f280abb78",
        ),
    ],
)
def test_made_data_are_the_same_bytes_everywhere(config, name, options, golden):
    assert load(config(name, **options)).fingerprint == golden


def test_one_class_is_a_dataset_too(config):
    assert not load(config("synthetic", **SYNTHETIC, classes=1)).train_labels.any()


def test_every_class_occurs(config):
    labels = load(config("synthetic", **SYNTHETIC)).train_labels
    assert np.bincount(labels, minlength=10).min() > 100


@pytest.mark.parametrize("shape", [[1, 1, 1], [2, 3, 1]])
def test_without_noise_the_line_is_exact(config, shape):
    line = load(config("line", **{**LINE, "image_shape": shape}))
    x = (line.train_images / 255).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(line.train_labels, 3 * x - 1, rtol=1e-14, atol=1e-14)
    assert line.train_labels.dtype == np.float64


def test_the_noise_of_the_line_is_as_loud_as_configured(config):
    line = load(config("line", **LINE, noise=0.1))
    residual = line.train_labels - (3 * (line.train_images[:, 0, 0, 0] / 255) - 1)
    assert residual.std() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name, classes", [("synthetic", 0), ("line", 10)])
def test_classes_that_cannot_be_are_refused(config, name, classes):
    with pytest.raises(ConfigError, match="data.classes"):
        load(config(name, **{**LINE, "classes": classes}))
