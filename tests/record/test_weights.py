"""Weights from a file: a run's own, torchvision's or Flax's."""

import numpy as np
import pytest
import safetensors.numpy

from recipe.errors import ConfigError
from recipe.weights import initial_weights
from record.weights import check_weights, export_weights, starting_weights

RECIPE = ["data=synthetic", "model=resnet18", "model.width=0.03125"]


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
@pytest.mark.parametrize("layout", ["canonical", "torchvision", "flax"])
def test_a_run_starts_from_what_was_exported(make_config, tmp_path, layout, kind):
    path = tmp_path / f"weights.{kind}"
    other = make_config(*RECIPE, "train.seed=1")
    export_weights(other, initial_weights(other), layout, path)
    started = starting_weights(make_config(*RECIPE, f"model.weights={path}"))
    for name, array in initial_weights(other).items():
        np.testing.assert_array_equal(started[name], array)
    nudge = make_config(*RECIPE, f"model.weights={path}", "train.nudge=1")
    assert np.any(starting_weights(nudge)["head.kernel"] != started["head.kernel"])


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("weights.h5", b"", r"none of .safetensors, .npz, .pth and .pt"),
        ("weights.pth", b"", "is damaged, or holds more than tensors"),
        ("missing.pt", None, "cannot be read: No such file"),
        ("empty.npz", b"", "cannot be read"),
        ("array.npz", b"\x93NUMPY\x01\x00", "cannot be read"),
        ("weights.npz", b"no archive", "cannot be read"),
        ("weights.safetensors", b"nor this", "cannot be read"),
        ("missing.npz", None, "cannot be read"),
        (
            "other.safetensors",
            safetensors.numpy.save({"fc.weight": np.zeros(3)}),
            "conv1.weight is missing",
        ),
    ],
)
def test_a_file_that_is_not_one_is_refused(make_config, tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as refused:
        check_weights(make_config(*RECIPE, f"model.weights={path}"))
    assert f"model.weights={path}" in str(refused.value)
    check_weights(make_config(*RECIPE))
