"""Exported files of every model compute what both twins compute, without Duet."""

import jax
import numpy as np
import pytest
import torch

from jax_impl import export as jax_export
from launch.export_check import check_file
from recipe.formats import FORMATS
from recipe.weights import random_weights
from tests.conftest import exhaustive_but
from tests.twins.outputs import jax_outputs, torch_outputs
from tests.twins.small_models import MODELS, NARROW, SMALL
from torch_impl import export as torch_export

CASES = {
    "linear": ["experiment=linear_line"],
    **MODELS,
    "group norms": [*NARROW, "model=resnet18", *["model.norm.name=group"]]
    + ["model.norm.groups=2"],
    "layer norms": [*NARROW, "model=resnet18", "model.norm.name=layer"],
    "dropout": [*SMALL, "model=mlp", "model.dropout=0.5"],
}
WRITERS = {"pt2": torch_export, "onnx": torch_export, "stablehlo": jax_export}


@pytest.mark.parametrize("case", exhaustive_but(["linear"], CASES))
def test_every_models_files_compute_what_both_twins_compute(case, config, tmp_path):
    given = config(*CASES[case], "precision=fp32")
    weights = random_weights(given)
    images = np.random.default_rng(1).integers(
        256, size=(100, *given.data.image_shape), dtype=np.uint8
    )
    np.save(tmp_path / "images.npy", images)
    with jax.enable_x64(False):
        for format, twin in WRITERS.items():
            path = tmp_path / FORMATS[format].file
            twin.write_model(given, weights, format, path)
        arrays = images, np.zeros(len(images), np.int32)
        found = [
            outputs(given, weights, arrays) for outputs in (torch_outputs, jax_outputs)
        ]
    assert np.abs(found[0]).max() > 0.1
    assert np.abs(found[0] - found[1]).max() <= 1e-4
    for format in WRITERS:
        path = tmp_path / FORMATS[format].file
        check_file(format, path, tmp_path, found[0], None)


class FixedBatch(torch.nn.Module):
    """Of the public fault: an int taken of the batch fixes it."""

    def forward(self, images):
        return images.reshape(len(images), -1).float()


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_batch_that_the_model_fixes_is_an_error(
    format, config, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch_export, "image_model", lambda *_: FixedBatch())
    with pytest.raises(Exception, match="batch"):
        torch_export.write_model(config(*SMALL), {}, format, tmp_path / "model")
    assert not list(tmp_path.iterdir())
