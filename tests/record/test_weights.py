"""Weights from a file: a run's own, torchvision's or Flax's."""

import shutil

import numpy as np
import pytest
import safetensors.numpy

from recipe.errors import ConfigError
from recipe.layouts import LAYOUTS, to_layout
from recipe.weights import initial_weights, new_head
from record.weights import (
    check_weights,
    describe_weights,
    export_weights,
    starting_weights,
)

RECIPE = ["data=synthetic", "model=resnet18", "model.width=0.03125"]


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_starts_from_what_was_exported(make_config, tmp_path, layout, kind):
    path = tmp_path / f"weights.{kind}"
    other = make_config(*RECIPE, "train.seed=1")
    export_weights(other, initial_weights(other), layout, path)
    started = starting_weights(make_config(*RECIPE, f"model.weights={path}"))
    for name, array in initial_weights(other).items():
        np.testing.assert_array_equal(started[name], array)
    perturb = make_config(*RECIPE, f"model.weights={path}", "train.perturb_seed=1")
    assert np.any(starting_weights(perturb)["head.kernel"] != started["head.kernel"])


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("weights.h5", b"", r"not a .safetensors, .npz, .pth or .pt file"),
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


def test_what_a_file_gave_and_what_was_drawn_is_said(make_config, tmp_path):
    path = tmp_path / "w.npz"
    keys = [f"model.weights={path}", "model.head=new", "train.freeze=[stem,stage.0]"]
    assert describe_weights(make_config(*RECIPE, *keys)) == [
        f"stem, stage.0 to 3 from {path}; drawn from train.seed: head",
        "frozen: stage.0, stem",
    ]
    assert describe_weights(make_config(*RECIPE)) == []


MODELS = {
    "mlp": ("dense.1.kernel", "dense.1.bias"),
    "cnn": ("dense.1.kernel", "dense.1.bias"),
    "resnet9": ("head.kernel",),
    "resnet50": ("head.kernel", "head.bias"),
    "vit_tiny": ("head.kernel", "head.bias"),
}


def saved(config, path, layout="canonical"):
    export_weights(config, initial_weights(config), layout, path)
    return initial_weights(config)


@pytest.mark.parametrize("model", MODELS)
def test_a_new_head_is_the_seeds_and_all_else_the_files(make_config, tmp_path, model):
    path = tmp_path / "weights.npz"
    width = ["model.width=0.03125"] * (model[:3] in ("res", "vit"))
    mine = ["data=synthetic", f"model={model}", *width]
    file = saved(make_config(*mine, "task.classes=7", "train.seed=1"), path)
    fresh = initial_weights(make_config(*mine))
    config = make_config(*mine, f"model.weights={path}", "model.head=new")
    started = starting_weights(config)
    assert list(started) == list(fresh)
    assert tuple(new_head(config)) == MODELS[model]
    for name, array in started.items():
        origin = fresh if name in MODELS[model] else file
        np.testing.assert_array_equal(array, origin[name])
    perturbed = starting_weights(
        make_config(
            *mine, f"model.weights={path}", "model.head=new", "train.perturb_seed=1"
        )
    )
    ulps = np.abs(perturbed[MODELS[model][0]] - fresh[MODELS[model][0]])
    assert 0 < ulps.max() <= np.spacing(np.abs(fresh[MODELS[model][0]]).max())


def test_a_new_head_needs_no_head_in_the_file(make_config, tmp_path):
    path = tmp_path / "backbone.npz"
    arrays = to_layout(make_config(*RECIPE), saved(make_config(*RECIPE), path), "flax")
    np.savez(path, **{n: a for n, a in arrays.items() if "Dense" not in n})
    with pytest.raises(ConfigError, match="params/Dense_0/kernel is missing"):
        check_weights(make_config(*RECIPE, f"model.weights={path}"))
    check_weights(make_config(*RECIPE, f"model.weights={path}", "model.head=new"))


def test_without_the_key_another_number_of_classes_is_refused(make_config, tmp_path):
    path = tmp_path / "weights.npz"
    saved(make_config("data=synthetic", "model=cnn", "task.classes=7"), path)
    with pytest.raises(ConfigError, match=r"head has 7 classes: .* model\.head=new"):
        check_weights(
            make_config("data=synthetic", "model=cnn", f"model.weights={path}")
        )


@pytest.mark.parametrize(
    ("model", "of", "told"),
    [
        ("linear", "linear", "leaves nothing to load: dense.0.kernel, dense.0.bias"),
        ("mlp", "mlp model.hidden=[64,64]", "holds dense.2.bias, dense.2.kernel, w"),
        ("mlp", "mlp model.hidden=[32]", r"dense.0.kernel has shape \(784, 32\)"),
    ],
)
def test_a_new_head_is_refused_where_it_would_leave_out_more_or_all(
    make_config, tmp_path, model, of, told
):
    path, data = tmp_path / "weights.npz", "data=synthetic"
    saved(make_config(data, *f"model={of}".split()), path)
    files = f"model.weights={path}", "model.head=new"
    with pytest.raises(ConfigError, match=told):
        check_weights(make_config(data, f"model={model}", *files))


def test_a_new_head_without_a_file_is_refused(make_config):
    with pytest.raises(ConfigError, match="model.head=new without model.weights"):
        make_config("model.head=new")
    with pytest.raises(ConfigError, match="model.head=old is unknown; one of: new"):
        make_config("model.head=old", "model.weights=file.npz")


OWN = """
def weight_shapes(config):
    return {"body.kernel": (4, 4), "top.kernel": (4, config.data.classes)}
"""


def test_a_custom_model_says_which_layer_is_its_head(make_config, tmp_path):
    for name in "shapes.py", "torch_model.py", "jax_model.py":
        (tmp_path / name).write_text(OWN)
    path = tmp_path / "weights.npz"
    np.savez(path, **{"body.kernel": np.ones((4, 4)), "top.kernel": np.ones((4, 99))})
    own = "model=custom", f"model.weights={path}", "model.head=new"

    def at(said):
        folder = tmp_path / f"own{len(said)}"
        shutil.copytree(tmp_path, folder, ignore=lambda *_: [folder.name])
        (folder / "shapes.py").write_text(f"{said}\n{OWN}")
        return make_config(*own, f"model.folder={folder}")

    with pytest.raises(ConfigError, match='add HEAD = "head" there, of body.kernel, t'):
        check_weights(at(""))
    with pytest.raises(ConfigError, match="HEAD='head' of shapes.py begins no name"):
        check_weights(at('HEAD = "head"'))
    started = starting_weights(at('HEAD = "top"'))
    assert (started["body.kernel"] == 1).all()
    assert started["top.kernel"].shape == (4, 10)
