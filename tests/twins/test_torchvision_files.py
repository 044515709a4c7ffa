"""A model of torchvision's, saved as its users do, is the same model in both twins."""

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from flax import nnx

from jax_impl import model as jax_model
from jax_impl import weights as jax_weights
from recipe.errors import ConfigError
from recipe.layouts import places
from recipe.weights import initial_weights
from record.weights import check_weights, starting_weights
from report.parity.differences import leaf_differences, relative_difference
from tests.conftest import exhaustive_but
from tests.twins.conftest import TORCH
from torch_impl import model as torch_model
from torch_impl import weights as torch_weights

RECIPE = ["data=synthetic", "task.image_shape=[64,64,3]", "precision=fp64"]
SAVE = {
    "safetensors": lambda model, path: safetensors.torch.save_file(
        model.state_dict(), path
    ),
    "pth": lambda model, path: torch.save(model.state_dict(), path),
    "pt": lambda model, path: torch.save(
        {"epoch": 3, "model": torch.nn.DataParallel(model).state_dict()}, path
    ),
}


def theirs(name, classes=10):
    """torchvision's, as if trained: no statistic is 0 or 1."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=classes)
    model.train()(torch.randn(8, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(
    ("model", "kind"),
    exhaustive_but(
        [("resnet18", "pt")],
        [("resnet18", "safetensors"), ("resnet18", "pt"), ("resnet50", "pth")],
    ),
)
def test_both_twins_give_its_outputs_and_its_loss(model, kind, make_config, tmp_path):
    reference, path = theirs(model), tmp_path / f"weights.{kind}"
    SAVE[kind](reference, path)
    files = [f"model={model}", "model.stem=imagenet", f"model.weights={path}"]
    config = make_config(*RECIPE, *files)
    images = np.random.default_rng(0).normal(size=(4, 64, 64, 3))
    nchw = torch.tensor(images).permute(0, 3, 1, 2)
    outputs = reference.double()(nchw).detach().numpy()

    weights = starting_weights(config)
    ours = torch_model.build_model(config)
    torch_weights.load_weights(ours, weights, TORCH)
    in_torch = ours.eval()(nchw).detach().numpy()
    merged = nnx.merge(
        *jax_weights.load_weights(jax_model.build_model(config), weights)
    )
    merged.eval()
    in_jax = np.asarray(jax.jit(merged.__call__)(images))

    def loss(logits):
        labels = torch.tensor([0, 3, 5, 9])
        return float(torch.nn.functional.cross_entropy(torch.tensor(logits), labels))

    for found in in_torch, in_jax:
        assert relative_difference(found, outputs).max() <= 1e-10
        assert loss(found) == pytest.approx(loss(outputs), rel=1e-12)


@pytest.mark.parametrize(
    "kind", exhaustive_but(["safetensors"], ["safetensors", "pth"])
)
def test_its_body_is_trained_on_with_a_head_of_other_classes(
    kind, twins, make_config, tmp_path
):
    reference, path = theirs("resnet18", classes=1000), tmp_path / f"weights.{kind}"
    SAVE[kind](reference, path)
    recipe = *RECIPE, "model=resnet18", "model.stem=imagenet"
    batch = "train.global_batch_size=4", "train.grad_accum_steps=1"
    config = make_config(
        *recipe,
        *batch,
        f"model.weights={path}",
        "model.head=new",
        "model.norm.sync=true",
    )
    weights = starting_weights(config)
    fresh = initial_weights(make_config(*recipe))
    theirs_by_name = reference.state_dict()
    for name, place in places(config, "torchvision").items():
        if name.startswith("head."):
            np.testing.assert_array_equal(weights[name], fresh[name])
        else:
            saved = theirs_by_name[place.name].numpy().astype(np.float64)
            np.testing.assert_array_equal(weights[name].transpose(place.axes), saved)

    batches = np.arange(12, dtype=np.int32).reshape(3, 1, 4)
    (in_torch, torch_ends), (in_jax, jax_ends) = (
        twin(batches, rate=0.01) for twin in twins(config, weights)
    )
    assert relative_difference(in_torch[:, 0], in_jax[:, 0]).max() <= 1e-10
    assert max(leaf_differences(torch_ends, jax_ends).values()) <= 1e-10
    moved = leaf_differences(weights, torch_ends)
    assert moved["stem.conv.kernel"] > 1e-6 and moved["head.kernel"] > 1e-6


def test_a_whole_model_that_was_pickled_is_not_run(make_config, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(theirs("resnet18"), path)
    files = ["model=resnet18", "model.stem=imagenet", f"model.weights={path}"]
    with pytest.raises(ConfigError, match="more than tensors, which could run any"):
        check_weights(make_config(*RECIPE, *files))


@pytest.mark.parametrize("saved", [[1, 2], {"epoch": 3}])
def test_a_file_without_a_state_dict_is_refused(make_config, tmp_path, saved):
    torch.save(saved, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=f"holds a {type(saved).__name__} without"):
        check_weights(
            make_config(
                *RECIPE, "model=resnet18", f"model.weights={tmp_path}/other.pth"
            )
        )
