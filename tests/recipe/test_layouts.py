"""Other projects' names for the same numbers."""

from itertools import product

import numpy as np
import pytest

from recipe.errors import ConfigError
from recipe.layouts import LAYOUTS, from_layout, to_layout
from recipe.weights import initial_weights

STAGES = "resnet.encoder.stages"
NORM, SHORTCUT = "layer.1.normalization", "shortcut.normalization"
TINY = ["data=synthetic", "model.width=0.03125"]


@pytest.fixture(params=["resnet18", "resnet50"])
def recipe(config, request):
    return config(*TINY, f"model={request.param}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_come_back_from_every_layout(recipe, layout):
    weights = initial_weights(recipe)
    arrays = to_layout(recipe, weights, layout)
    assert len(arrays) == len(weights)
    back = from_layout(recipe, arrays | {"bn1.num_batches_tracked": np.array(7)})
    assert list(back) == list(weights)
    for name in weights:
        np.testing.assert_array_equal(back[name], weights[name])


@pytest.mark.parametrize(
    "model, layout, name, shape",
    [
        ("resnet18", "torchvision", "conv1.weight", (2, 1, 3, 3)),
        ("resnet18 imagenet", "torchvision", "conv1.weight", (2, 1, 7, 7)),
        ("resnet18", "torchvision", "layer4.1.bn2.running_var", (16,)),
        ("resnet18", "torchvision", "layer2.0.downsample.0.weight", (4, 2, 1, 1)),
        ("resnet50", "torchvision", "layer1.0.downsample.1.bias", (8,)),
        ("resnet50", "torchvision", "fc.weight", (10, 64)),
        ("resnet18", "huggingface", f"{STAGES}.3.layers.1.{NORM}.running_var", (16,)),
        ("resnet50", "huggingface", f"{STAGES}.0.layers.0.{SHORTCUT}.bias", (8,)),
        ("resnet50", "huggingface", "classifier.1.weight", (10, 64)),
        ("resnet18", "flax", "params/conv_init/kernel", (3, 3, 1, 2)),
        ("resnet18", "flax", "batch_stats/ResNetBlock_7/BatchNorm_1/var", (16,)),
        ("resnet18", "flax", "params/ResNetBlock_2/conv_proj/kernel", (1, 1, 2, 4)),
        ("resnet50", "flax", "params/BottleneckResNetBlock_3/norm_proj/bias", (16,)),
        ("resnet50", "flax", "params/Dense_0/kernel", (64, 10)),
    ],
)  # fmt: skip
def test_names_and_shapes_are_the_other_projects(config, model, layout, name, shape):
    model, *stem = model.split()
    recipe = config(*TINY, f"model={model}", *[f"model.stem={s}" for s in stem])
    assert to_layout(recipe, initial_weights(recipe), layout)[name].shape == shape


def test_transformers_names_are_those_of_its_modules(config):
    """As written in transformers' models/resnet/modeling_resnet.py."""
    recipe = config(*TINY, "model=resnet18", "model.stem=imagenet")

    def conv_layer(at):
        norm = ("weight", "bias", "running_mean", "running_var")
        yield f"{at}.convolution.weight"
        yield from (f"{at}.normalization.{leaf}" for leaf in norm)

    expected = {"classifier.1.weight", "classifier.1.bias"}
    expected.update(conv_layer("resnet.embedder.embedder"))
    for stage, layer in product(range(4), range(2)):
        at = f"{STAGES}.{stage}.layers.{layer}"
        for part in ["layer.0", "layer.1", *["shortcut"] * (stage > 0 == layer)]:
            expected.update(conv_layer(f"{at}.{part}"))
    arrays = to_layout(recipe, initial_weights(recipe), "huggingface")
    assert arrays.keys() == expected
    convolution = arrays[f"{STAGES}.1.layers.0.layer.0.convolution.weight"]
    assert convolution.shape == (4, 2, 3, 3)


def test_an_array_of_the_wrong_shape_is_named_with_both_shapes(recipe):
    arrays = to_layout(recipe, initial_weights(recipe), "torchvision")
    arrays["fc.weight"] = arrays["fc.weight"][:9]
    wide = recipe.model.name == "resnet50"
    with pytest.raises(ConfigError) as refused:
        from_layout(recipe, arrays)
    given, wanted = ("(9, 64)", "(10, 64)") if wide else ("(9, 16)", "(10, 16)")
    for word in "fc.weight", given, wanted:
        assert word in str(refused.value)


def test_a_file_of_another_stem_or_head_is_refused_with_what_would_take_it(config):
    other = config(*TINY, "model=resnet18", "model.stem=imagenet", "task.classes=6")
    arrays = to_layout(other, initial_weights(other), "torchvision")
    with pytest.raises(ConfigError, match=r"; model.stem=imagenet has a kernel of 7x7"):
        from_layout(config(*TINY, "model=resnet18"), arrays)
    mine = config(*TINY, "model=resnet18", "model.stem=imagenet")
    with pytest.raises(ConfigError, match="has 6 classes: .* use model.head=new"):
        from_layout(mine, arrays)


def test_names_are_understood_as_ddp_and_torch_compile_write_them(recipe):
    weights = initial_weights(recipe)
    wrapped = {
        f"module._orig_mod.{name}": array
        for name, array in to_layout(recipe, weights, "torchvision").items()
    }
    assert list(from_layout(recipe, wrapped)) == list(weights)


def test_integers_are_no_weights_where_the_model_needs_them(recipe):
    arrays = to_layout(recipe, initial_weights(recipe), "torchvision")
    arrays["bn1.weight"] = arrays["bn1.weight"].astype(np.int64)
    with pytest.raises(ConfigError, match="bn1.weight is int64; weights are real"):
        from_layout(recipe, arrays)


def test_a_missing_array_is_named(recipe):
    arrays = to_layout(recipe, initial_weights(recipe), "flax")
    del arrays["params/bn_init/scale"]
    with pytest.raises(ConfigError, match="params/bn_init/scale is missing"):
        from_layout(recipe, arrays)


def test_a_model_that_is_nobody_elses_has_the_canonical_layout_alone(config):
    recipe = config(*TINY, "model=resnet9")
    weights = initial_weights(recipe)
    assert from_layout(recipe, to_layout(recipe, weights, "canonical")).keys()
    for layout in "flax", "keras":
        with pytest.raises(ConfigError, match=f"layout={layout} is"):
            to_layout(recipe, weights, layout)
