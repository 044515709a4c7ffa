"""Layers named by prefix: frozen ones, and factors on the learning rate."""

import pytest

from recipe.config import recipe_hash, recipe_parts
from recipe.errors import ConfigError
from recipe.flops import training_flops
from recipe.prefixes import brief, is_frozen, lr_factor
from recipe.weights import initial_weights, parameter_count
from record.weights import check_weights

RESNET = ["data=synthetic", "model=resnet18", "model.width=0.03125"]


def test_a_prefix_ends_where_a_name_does(config):
    recipe = config(*RESNET, "train.freeze=[stage.1,stem.conv]")
    for name in "stage.1.block.0.conv.0.kernel", "stage.1.block.1", "stem.conv.kernel":
        assert is_frozen(recipe, name), name
    for name in "stage.10.block.0.conv.0.kernel", "stage.0.block.1", "stem.norm.mean":
        assert not is_frozen(recipe, name), name


def test_the_longest_prefix_gives_the_factor(config):
    factors = "{stage: 0.5, stage.1.block.0: 2, head: 10}"
    recipe = config(*RESNET, f"optim.lr_factors={factors}")
    assert lr_factor(recipe, "stage.1.block.0.conv.1.kernel") == 2
    assert lr_factor(recipe, "stage.1.block.1.conv.1.kernel") == 0.5
    assert lr_factor(recipe, "head.bias") == 10
    assert lr_factor(recipe, "stem.conv.kernel") == 1


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["train.freeze=[stage1]"], "freeze names stage1, .* layers: stem.conv, "),
        (["train.freeze=['']"], "train.freeze names nothing, which begins no layer"),
        (["train.freeze=[head.kernel]"], "freeze names head.kernel, which begins"),
        (["train.freeze=[stem,stage,head]"], r"=\[head,stage,stem\] freezes all of"),
        (["optim.lr_factors={fc: 2}"], "optim.lr_factors names fc, which begins no"),
        (
            ["optim.lr_factors={stem.conv: 2}", "train.freeze=[stem]"],
            r"gives stem.conv the factor 2, and train.freeze=\[stem\] freezes it",
        ),
        *(
            ([f"optim.lr_factors={{stem: {factor}}}"], "stem the factor .* > 0; to")
            for factor in ("-1", "0", ".nan", ".inf", "true", "a")
        ),
        (["optim.lr_factors=[stem]"], r"must be prefixes with factors, such as"),
        (["model.head=new", "train.freeze=[stem]"], "model.head=new without model.wei"),
    ],
)  # fmt: skip
def test_what_fits_no_layer_is_refused(config, overrides, words):
    with pytest.raises(ConfigError, match=words):
        check_weights(config(*RESNET, *overrides))


def test_layers_may_be_frozen_without_weights_and_scaled_beside_frozen_ones(config):
    keys = ["train.freeze=[stage.0]", "optim.lr_factors={stage: 2}"]
    check_weights(config(*RESNET, *keys))


def test_both_are_part_of_the_recipe_and_change_no_hash_where_unused(config):
    plain = config(*RESNET)
    assert "freeze" not in recipe_parts(plain)["train"]
    assert "lr_factors" not in recipe_parts(plain)["optim"]
    one, other = (config(*RESNET, f"train.freeze={f}") for f in ("[a,b]", "[b,a,b]"))
    assert recipe_hash(one) == recipe_hash(other) != recipe_hash(plain)
    one, other = (config(*RESNET, f"optim.lr_factors={{a: {f}}}") for f in (2, 3))
    assert len({recipe_hash(c) for c in (plain, one, other)}) == 3


def test_frozen_layers_are_no_trained_parameters_and_take_fewer_operations(config):
    def counts(freeze):
        recipe = config("model=mlp", f"train.freeze={freeze}")
        weights = initial_weights(recipe)
        return parameter_count(recipe, weights), training_flops(recipe) // 2

    first, last = 784 * 64, 64 * 10
    assert counts("[]") == (first + 64 + last + 10, 2 * first + 3 * last)
    assert counts("[dense.0]") == (last + 10, first + 2 * last)
    assert counts("[dense.1]") == (first + 64, 2 * first + 2 * last)


def test_a_leaf_without_a_layer_is_named_as_it_is():
    assert brief(["scale", "stage.0.kernel", "stage.2.kernel"]) == (
        "scale, stage.0 to 2"
    )
