"""torch.compile takes every model whole, so that `compile=true` has no graph break."""

import numpy as np
import pytest
import torch

from tests.conftest import exhaustive_but
from tests.twins.conftest import TORCH
from tests.twins.small_models import MODELS, one_block_a_stage
from tests.twins.steps import random_weights
from torch_impl.model import build_model
from torch_impl.weights import load_weights

PRECISIONS = ["fp32", "bf16", "fp16", "fp64"]
CASES = [(name, precision) for name in MODELS for precision in PRECISIONS]
KEPT = [("mlp", "fp32"), ("resnet9", "bf16"), ("vit_tiny", "fp16")]


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    one_block_a_stage(monkeypatch)
    torch._dynamo.reset()


def capture(config):
    """Run forward and backward passes, and evaluation, of the model as one graph."""
    dtype = np.float64 if config.precision.name == "fp64" else np.float32
    held = {name: array.astype(dtype) for name, array in random_weights(config).items()}
    model = build_model(config)
    load_weights(model, held, TORCH)
    model.compile(backend="eager", fullgraph=True, dynamic=False)
    height, width, channels = config.data.image_shape
    pixels = torch.from_numpy(np.zeros((8, height, width, channels), dtype))
    images = pixels.permute(0, 3, 1, 2)
    keys = (torch.zeros(8, 9, dtype=torch.int32),) if config.model.dropout else ()
    model(images, *keys).float().sum().backward()
    model.eval()
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize(("name", "precision"), exhaustive_but(KEPT, CASES))
def test_a_model_is_one_graph(name, precision, make_config):
    capture(make_config(*MODELS[name], f"precision={precision}"))


@pytest.mark.parametrize("name", exhaustive_but(["mlp"], ["mlp", "cnn", "vit_tiny"]))
def test_dropout_is_in_the_graph(name, make_config):
    capture(make_config(*MODELS[name], "model.dropout=0.3"))


def test_a_break_would_be_found(make_config, monkeypatch):
    def broken(x):
        torch._dynamo.graph_break()
        return x.flatten(1)

    monkeypatch.setattr("torch_impl.model.flatten", broken)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        capture(make_config(*MODELS["mlp"]))
