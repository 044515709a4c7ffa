"""Initial weights follow from the seed and the architecture, and from nothing else."""

import math

import numpy as np
import pytest

from recipe.architecture import layers
from recipe.weights import (
    decays,
    initial_weights,
    is_trained,
    parameter_count,
    weight_shapes,
)


def kernels(weights):
    return {name: w for name, w in weights.items() if name.endswith(".kernel")}


@pytest.mark.parametrize(
    "overrides, parameters",
    [
        (["model=mlp"], 784 * 64 + 64 + 64 * 10 + 10),  # 50,890
        (["model=linear"], 784 * 10 + 10),
        # 28 -conv-> 24 -pool-> 12 -conv-> 8 -pool-> 4: 4 x 4 x 20 = 320 features
        (["model=cnn"], 260 + 5_020 + 320 * 50 + 50 + 50 * 10 + 10),  # 21,840
        (["experiment=linear_line"], 1 + 1),
        (["experiment=cifar10_resnet9", "data=synthetic"], 6_573_120),
        (["experiment=cifar10_resnet18", "data=synthetic"], 11_173_962),
        (["experiment=cifar100_resnet18", "data=synthetic"], 11_220_132),
        (["experiment=imagenet_like_resnet50"], 25_557_032),
        (["experiment=cifar10_vit_tiny", "data=synthetic"], 5_360_074),
    ],
)
def test_a_model_has_as_many_parameters_as_counted_by_hand(
    config, overrides, parameters
):
    recipe = config(*overrides)
    weights = {name: np.empty(shape) for name, shape in weight_shapes(recipe).items()}
    assert parameter_count(recipe, weights) == parameters


def test_layouts_are_height_width_in_out_and_in_out(config):
    recipe = config("model=cnn")
    shapes = weight_shapes(recipe)
    assert list(shapes.items()) == [
        ("conv.0.kernel", (5, 5, 1, 10)),
        ("conv.0.bias", (10,)),
        ("conv.1.kernel", (5, 5, 10, 20)),
        ("conv.1.bias", (20,)),
        ("dense.0.kernel", (320, 50)),
        ("dense.0.bias", (50,)),
        ("dense.1.kernel", (50, 10)),
        ("dense.1.bias", (10,)),
    ]
    weights = initial_weights(recipe)
    assert {n: w.shape for n, w in weights.items()} == shapes
    assert list(weights) == list(shapes)


def test_the_numbers_never_change_between_versions(config):
    weights = initial_weights(config("model=mlp", "precision=fp64"))
    assert weights["dense.0.kernel"].ravel()[:3].tolist() == [
        0.034362463953759706,
        0.109796524401349,
        0.11717474905412818,
    ]


def looks_he_normal(kernel: np.ndarray) -> bool:
    """Mean 0 and variance 2 / fan_in, within four standard errors."""
    std = math.sqrt(2 / math.prod(kernel.shape[:-1]))
    return (
        abs(kernel.mean()) < 4 * std / math.sqrt(kernel.size)
        and abs(kernel.std() - std) < 4 * std / math.sqrt(2 * kernel.size)
    )  # fmt: skip


@pytest.mark.parametrize("model", ["cnn", "linear", "mlp"])
def test_kernels_are_he_normal_and_biases_zero(config, model):
    weights = initial_weights(config(f"model={model}"))
    for name, array in weights.items():
        if name.endswith(".kernel"):
            assert looks_he_normal(array), name
            # LeCun's 1 / fan_in, which flax would draw, is told apart
            assert not looks_he_normal(array / math.sqrt(2)), name
        else:
            assert not array.any(), name


def test_adding_a_layer_moves_no_other_parameter(config):
    few = initial_weights(config("model=cnn", "model.hidden=[50]"))
    more = initial_weights(config("model=cnn", "model.hidden=[50,40]"))
    kept = [n for n in few if few[n].shape == more[n].shape]
    assert {"conv.0.kernel", "conv.1.kernel", "dense.0.kernel"} <= set(kept)
    for name in kept:
        np.testing.assert_array_equal(few[name], more[name])


def test_another_seed_moves_every_kernel(config):
    other = initial_weights(config("model=cnn", "train.seed=1"))
    for name, kernel in kernels(initial_weights(config("model=cnn"))).items():
        assert not np.any(kernel == other[name]), name


def test_no_two_layers_of_one_shape_are_alike(config):
    weights = initial_weights(config("model=mlp", "model.hidden=[64,64,64]"))
    assert not np.any(weights["dense.1.kernel"] == weights["dense.2.kernel"])


def test_fp32_is_fp64_rounded(config):
    single = initial_weights(config("model=cnn", "precision=fp32"))
    double = initial_weights(config("model=cnn", "precision=fp64"))
    for name in single:
        assert (single[name].dtype, double[name].dtype) == (np.float32, np.float64)
        np.testing.assert_array_equal(single[name], double[name].astype(np.float32))
    assert np.any(single["dense.0.kernel"] != double["dense.0.kernel"])


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Signed floats between a and b, which must not lie on different sides of 0."""
    integer = f"i{a.itemsize}"
    return (b.view(integer) - a.view(integer)) * np.where(a < 0, -1, 1)


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_perturbation_moves_every_nonzero_number_by_one_ulp(config, precision):
    plain, perturbed = (
        initial_weights(config("model=cnn", f"precision={precision}", perturb))
        for perturb in ("train.perturb_seed=0", "train.perturb_seed=1")
    )
    for name, array in plain.items():
        assert perturbed[name].dtype == array.dtype
        if name.endswith(".kernel"):
            moved = ulps(array, perturbed[name])
            assert set(np.unique(moved)) == {-1, 1}, name
            assert abs(moved.mean()) < 4 / math.sqrt(moved.size), name
        else:
            assert not perturbed[name].any(), name


@pytest.mark.parametrize("precision, bits", [("bf16", 7), ("tf32", 10), ("fp16", 10)])
def test_a_perturbation_is_one_unit_of_the_numbers_that_are_multiplied(
    config, precision, bits
):
    plain, perturbed = (
        initial_weights(config("model=cnn", f"precision={precision}", perturb))
        for perturb in ("train.perturb_seed=0", "train.perturb_seed=1")
    )
    for name, array in kernels(plain).items():
        assert array.dtype == np.float32
        # Bits below the last that is multiplied are what the cast rounds away.
        moved = ulps(array, perturbed[name]) / 2 ** (23 - bits)
        assert abs(moved).min() > 0.4 and abs(moved).max() < 2, name
        assert np.mean(abs(moved) == 1) > 0.98  # others cross a power of 2


def test_perturbations_are_seeded_by_their_number(config):
    first, again, second = (
        initial_weights(config(f"train.perturb_seed={perturb}"))["dense.0.kernel"]
        for perturb in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert 0.4 < np.mean(first != second) < 0.6


@pytest.mark.parametrize(
    "rule, decayed",
    [
        ("kernels", {"conv.0.kernel", "dense.0.kernel"}),
        ("all", {"conv.0.kernel", "conv.0.bias", "dense.0.kernel", "dense.0.bias"}),
    ],
)
def test_decay_is_one_named_rule(config, rule, decayed):
    recipe = config("model=cnn", f"optim.decay={rule}")
    names = ["conv.0.kernel", "conv.0.bias", "dense.0.kernel", "dense.0.bias"]
    assert {name for name in names if decays(recipe, name)} == decayed


def test_a_cifar_resnet18_takes_555_million_multiply_adds(config):
    recipe = config("experiment=cifar10_resnet18", "data=synthetic")
    counts = [layer.multiply_adds for layer in layers(recipe.model, recipe.data)]
    assert sum(counts) == 555_422_720


def test_running_statistics_begin_as_a_standard_normals_and_are_not_trained(config):
    tiny = ["data=synthetic", "model=resnet18", "model.width=0.03125"]
    plain = initial_weights(config(*tiny))
    perturbed = initial_weights(config(*tiny, "train.perturb_seed=1"))
    for name, array in plain.items():
        leaf = name.rpartition(".")[2]
        assert is_trained(name) == (leaf not in ("mean", "var"))
        if leaf != "kernel":
            assert (array == (leaf in ("scale", "var"))).all(), name
        moved = leaf in ("kernel", "scale")
        assert (perturbed[name] != array).all() == moved, name


@pytest.mark.parametrize("zero", [False, True])
def test_residual_blocks_begin_as_identities_where_asked(config, zero):
    asked = f"model.zero_init_residual={str(zero).lower()}"
    weights = initial_weights(config("data=synthetic", "model=resnet50", asked))
    zeros = [n for n, w in weights.items() if n.endswith("scale") and not w.any()]
    last = [n for n in weights if n.endswith("norm.2.scale")]
    assert len(last) == 16 and zeros == (last if zero else [])
