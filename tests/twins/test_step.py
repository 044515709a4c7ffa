"""One step of either twin, from the same numbers, in fp64."""

from functools import partial

import jax
import numpy as np
import pytest
import torch

from jax_impl import layers as jax_layers
from jax_impl import model as jax_model
from jax_impl import optim as jax_optim
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from jax_impl.parallel import replicate as jax_place
from recipe.pixels import pixel_affine
from report.parity.differences import leaf_differences
from tests.conftest import ROOT, exhaustive_but
from tests.launch.conftest import NORMED
from tests.twins.conftest import TORCH
from tests.twins.steps import EXAMPLES, random_weights
from torch_impl import layers as torch_layers
from torch_impl import model as torch_model
from torch_impl import optim as torch_optim
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights
from torch_impl.parallel import replicate as torch_place

OWN_DROPOUT = [
    *("model=custom", f"model.folder={ROOT}/tests/twins/planted_dropout"),
    *("data=synthetic", "data.image_shape=[8,8,1]"),
]
EXPERIMENTS = ["linear_line", "digits_mlp", "digits_cnn"]
DEEP = [
    *("data=synthetic", "task.image_shape=[16,16,3]", "model.width=0.0625"),
    *("data.augment.pad_crop=2", "data.augment.flip=true", "data.augment.cutout=4"),
]


# AdamW divides a gradient by its own size, however small: with eps=1e-8 one number of
# a kernel differs by 2e-12 after five steps, with 1e-3 none by more than 2e-15.
VIT = ["experiment=cifar10_vit_tiny", *DEEP, "model.blocks=2", "optim.eps=1e-3"]

# Every model, and every key of a step, once; then what combines them.
RECIPES = [
    *([f"experiment={name}"] for name in EXPERIMENTS),
    ["experiment=digits_cnn", "optim=adamw", "optim.weight_decay=0.1"],
    ["experiment=digits_mlp", "optim.clip_norm=0.5"],
    ["experiment=digits_mlp", "train.label_smoothing=0.2"],
    ["experiment=cifar10_resnet9", *DEEP],
    ["experiment=cifar10_resnet9", *DEEP, "model.norm={name:group,groups:4}"],
    [*VIT, "model.dropout=0.1"],
    [*OWN_DROPOUT, "train.grad_accum_steps=2", "optim.ema_decay=0.9"],
    # Batch normalisation, since compiling must leave its running statistics.
    ["compile=true", *NORMED],
]
MORE_RECIPES = [
    ["experiment=digits_mlp", "optim=adamw", "optim.decay=all", "optim.eps=1e-3"],
    ["experiment=cifar10_resnet18", *DEEP],
    ["experiment=cifar10_resnet9", *DEEP, "model.norm.name=layer"],
    VIT,
    ["experiment=digits_mlp", "model.hidden=[32,16]", "model.dropout=0.3"],
    ["experiment=digits_cnn", "model.dropout=0.5", "train.grad_accum_steps=2"],
    ["experiment=digits_mlp", "model.dropout=0.3", "compile=true"],
    [*OWN_DROPOUT, "compile=true"],
    ["experiment=digits_cnn", "optim=adamw", "optim.ema_decay=0.9"],
    ["compile=true", *NORMED, "optim.ema_decay=0.9"],
]


@pytest.mark.parametrize(
    "recipe", exhaustive_but(RECIPES, [*RECIPES, *MORE_RECIPES]), ids=" ".join
)
def test_five_steps_from_random_weights_agree_to_fp64_rounding(
    recipe, make_config, twins
):
    config = make_config(*recipe, "precision=fp64")
    batches = np.random.default_rng(2).integers(EXAMPLES, size=(5, 8), dtype=np.int32)
    (torch_seen, torch_end), (jax_seen, jax_end) = (
        twin(batches) for twin in twins(config, random_weights(config))
    )
    np.testing.assert_allclose(torch_seen, jax_seen, rtol=1e-12)
    assert max(leaf_differences(torch_end, jax_end).values()) <= 1e-12


@pytest.mark.parametrize("recipe", ["optim.clip_norm=0.5", "optim=adamw"])
def test_without_the_update_a_step_has_the_gradient_and_leaves_the_weights(
    recipe, make_config, twins
):
    given = ("experiment=digits_cnn", "precision=fp64", recipe)
    full, frozen = (make_config(*given, f"optim.update={on}") for on in (True, False))
    weights, batch = random_weights(full), np.arange(8, dtype=np.int32)
    steps = zip(twins(full, weights), twins(frozen, weights), strict=True)
    for with_update, without in steps:
        seen, end = without(np.stack([batch, batch]))
        # The norm is the whole gradient's, so no compiler can have left it out.
        np.testing.assert_allclose(seen, with_update(batch[None])[0][[0, 0]], 1e-12)
        assert all(np.array_equal(end[name], weights[name]) for name in weights)


def test_one_wrong_example_is_a_thousand_times_the_bound(make_config, twins):
    config = make_config("experiment=digits_cnn", "precision=fp64")
    in_torch, in_jax = twins(config, random_weights(config))
    batches = np.arange(8, dtype=np.int32)[None]
    other = batches.copy()
    other[0, 3] = 20
    mine, theirs = in_torch(batches)[0][0], in_jax(other)[0][0]
    assert abs(mine[0] - theirs[0]) / mine[0] > 1e-9


@pytest.mark.parametrize(
    "optim",
    [
        ["optim.momentum=0", "optim.nesterov=false", "optim.weight_decay=0"],
        ["optim.momentum=0.9", "optim.nesterov=false", "optim.weight_decay=0.1"],
        ["optim.momentum=0.9", "optim.nesterov=true", "optim.weight_decay=0.1"],
        ["optim.momentum=0", "optim.nesterov=false", "optim.decay=all"],
    ],
)
def test_sgd_is_its_formula_in_both(optim, make_config, worlds):
    config = make_config("model=linear", "precision=fp64", *optim)
    weights = random_weights(config)
    gradients = [random_weights(config, seed) for seed in (1, 2, 3)]
    rates = [0.1, 0.2, 0.05]

    expected = {name: array.copy() for name, array in weights.items()}
    momenta = {name: 0.0 for name in weights}
    o = config.optim
    for gradient, rate in zip(gradients, rates, strict=True):
        for name in expected:
            decays = o.decay == "all" or "kernel" in name
            g = gradient[name] + decays * o.weight_decay * expected[name]
            momenta[name] = o.momentum * momenta[name] + g
            update = g + o.momentum * momenta[name] if o.nesterov else momenta[name]
            expected[name] = expected[name] - rate * update

    for end in after_updates(config, weights, gradients, rates, worlds):
        assert max(leaf_differences(end, expected).values()) < 1e-14


def after_updates(config, weights, gradients, rates, worlds):
    """The weights that either twin's optimizer makes of these gradients."""
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    optimizer = torch_optim.build_optimizer(config, model)
    for gradient, rate in zip(gradients, rates, strict=True):
        holder = torch_model.build_model(config)
        torch_weights.load_weights(holder, gradient, TORCH)
        for p, g in zip(model.parameters(), holder.parameters(), strict=True):
            p.grad = g.detach()
        torch_optim.apply_update(optimizer, rate)
    yield torch_weights.save_weights(model, TORCH)

    graph = jax_model.build_model(config)
    _, params, none = jax_weights.load_weights(graph, weights)
    transform = jax_optim.build_optimizer(config, params)
    slots = transform.init(params)
    for gradient, rate in zip(gradients, rates, strict=True):
        _, g, _ = jax_weights.load_weights(graph, gradient)
        updates, slots = transform.update(g, slots, params)
        params = jax_optim.apply_update(config, params, updates, rate)
    yield jax_weights.save_weights(jax_place(params, worlds[1]), none, worlds[1])


def after_one_step(in_torch, in_jax):
    """The weights that either twin has after one batch."""
    batch = np.arange(8, dtype=np.int32)[None]
    return [twin(batch)[1] for twin in (in_torch, in_jax)]


@pytest.mark.parametrize("norm", [1e-3, 0.5, 1e6])
def test_clipping_scales_the_update_by_the_global_norm_and_a_millionth(
    norm, make_config, twins
):
    plain = ["experiment=linear_line", "model=mlp", "precision=fp64"]
    config = make_config(*plain)
    weights = random_weights(config)
    clipped = make_config(*plain, f"optim.clip_norm={norm}")
    measured = twins(config, weights)[0](np.arange(8, dtype=np.int32)[None])[0][0, 1]
    scale = min(1.0, norm / (measured + 1e-6))
    for free, held in zip(
        after_one_step(*twins(config, weights)),
        after_one_step(*twins(clipped, weights)),
        strict=True,
    ):
        expected = {n: w + scale * (free[n] - w) for n, w in weights.items()}
        assert max(leaf_differences(held, expected).values()) < 1e-13


def test_adamw_is_its_formula_in_both(make_config, twins):
    config = make_config("model=linear", "precision=fp64", "optim=adamw")
    weights = random_weights(config)
    plain = make_config(
        "model=linear",
        "precision=fp64",
        "optim.momentum=0",
        "optim.nesterov=false",
        "optim.weight_decay=0",
    )
    rate, o = 0.1, config.optim
    ends = after_one_step(*twins(config, weights))
    for end, moved in zip(ends, after_one_step(*twins(plain, weights)), strict=True):
        for name, w in weights.items():
            g = (w - moved[name]) / rate
            decay = o.weight_decay * ("kernel" in name)
            # At the first step the corrected moments are g and g squared.
            expected = w - rate * (g / (abs(g) + o.eps) + decay * w)
            # g was read back from a difference of weights, and so is rounded.
            np.testing.assert_allclose(end[name], expected, atol=1e-7)


def test_adamw_keeps_to_its_formula_over_several_gradients(make_config, worlds):
    # An eps that shows, inside the root or outside of it.
    config = make_config(
        *("model=linear", "precision=fp64", "optim=adamw", "optim.eps=1e-3"),
        *("optim.beta1=0.8", "optim.beta2=0.95", "optim.weight_decay=0.1"),
    )
    weights, o = random_weights(config), config.optim
    gradients = [random_weights(config, seed) for seed in (1, 2, 3)]
    rates = [0.1, 0.2, 0.05]
    expected = {name: array.copy() for name, array in weights.items()}
    first, second = ({n: 0.0 for n in weights} for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for name, g in gradient.items():
            first[name] = o.beta1 * first[name] + (1 - o.beta1) * g
            second[name] = o.beta2 * second[name] + (1 - o.beta2) * g**2
            m, v = first[name] / (1 - o.beta1**t), second[name] / (1 - o.beta2**t)
            decay = o.weight_decay * ("kernel" in name) * expected[name]
            expected[name] = expected[name] - rate * (m / (v**0.5 + o.eps) + decay)
    for end in after_updates(config, weights, gradients, rates, worlds):
        assert max(leaf_differences(end, expected).values()) < 1e-13


def test_smoothed_labels_are_cross_entropy_against_their_mixture(make_config):
    config = make_config("experiment=digits_mlp", "precision=fp64")
    logits = np.random.default_rng(0).normal(size=(6, 10))
    labels = np.arange(6, dtype=np.int32)
    targets = 0.7 * np.eye(10)[labels] + 0.3 / 10
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(targets * log_p).sum(axis=1)
    in_torch = torch_step.example_losses(
        config, torch.tensor(logits), torch.tensor(labels), 0.3
    )
    np.testing.assert_allclose(in_torch, expected, rtol=1e-13)
    in_jax = jax_step.example_losses(config, logits, labels, 0.3)
    np.testing.assert_allclose(in_jax, expected, rtol=1e-13)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_weights_survive_the_way_into_a_framework_and_back(
    experiment, make_config, worlds
):
    config = make_config(f"experiment={experiment}", "precision=fp64")
    weights = random_weights(config)
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    _, *states = jax_weights.load_weights(jax_model.build_model(config), weights)
    for back in (
        torch_weights.save_weights(model, TORCH),
        jax_weights.save_weights(*jax_place(states, worlds[1]), worlds[1]),
    ):
        assert back.keys() == weights.keys()
        for name in weights:
            np.testing.assert_array_equal(back[name], weights[name])


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_normalised_pixels_are_the_same_bit_for_bit(
    precision, make_config, arrays, worlds
):
    config = make_config("experiment=fashion_cnn", f"precision={precision}")
    data = (*arrays(config), *pixel_affine(config))
    batch = np.array([5, 0, 23, 5], np.int32)
    in_torch, _ = torch_step.gather(
        config,
        torch_step.DeviceData(*(torch_place(a, TORCH) for a in data)),
        torch.tensor(batch),
    )
    placed = jax_step.DeviceData(*jax_place(data, worlds[1]))
    in_jax, _ = jax.jit(partial(jax_step.gather, config))(placed, batch)
    in_jax = np.asarray(in_jax)
    assert in_jax.dtype == {"fp32": np.float32, "fp64": np.float64}[precision]
    np.testing.assert_array_equal(in_torch.permute(0, 2, 3, 1).numpy(), in_jax)
    m, s = config.data.mean[0], config.data.std[0]
    pixels = data[0][batch] / 255
    np.testing.assert_allclose(in_jax, (pixels - m) / s, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [4, 5])
def test_max_pool_gives_the_gradient_to_the_first_of_equal_pixels(size):
    x = np.random.default_rng(0).integers(3, size=(2, size, size, 3)) * 1.0
    weight = np.random.default_rng(1).normal(size=(2, size // 2, size // 2, 3))

    tensor = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    pooled = torch_layers.max_pool(tensor).permute(0, 2, 3, 1)
    (pooled * torch.tensor(weight)).sum().backward()

    value, gradient = jax.value_and_grad(
        lambda x: (jax_layers.max_pool(x) * weight).sum()
    )(x)
    np.testing.assert_allclose(value, (pooled.detach().numpy() * weight).sum())
    np.testing.assert_array_equal(gradient, tensor.grad.permute(0, 2, 3, 1).numpy())


def test_max_pool_hands_on_a_nan():
    x = np.zeros((1, 2, 2, 1))
    for position in np.ndindex(2, 2):
        x[:] = 0
        x[0, position[0], position[1], 0] = np.nan
        assert np.isnan(jax_layers.max_pool(x)).all()
        assert torch_layers.max_pool(torch.tensor(x).permute(0, 3, 1, 2)).isnan().all()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_evaluation_counts_masked_rows_for_nothing(
    experiment, make_config, arrays, worlds
):
    config = make_config(f"experiment={experiment}", "precision=fp64")
    weights = random_weights(config)
    data = (*arrays(config), *pixel_affine(config))
    indices = np.array([3, 4, 0, 0], np.int32)
    mask = np.array([True, True, False, False])

    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    placed = torch_step.DeviceData(*(torch_place(a, TORCH) for a in data))

    def in_torch(indices, mask):
        return torch_step.eval_step(
            config, model, placed, torch.tensor(indices), torch.tensor(mask)
        )

    graphdef, *states = jax_weights.load_weights(jax_model.build_model(config), weights)
    in_jax = jax.jit(partial(jax_step.eval_step, config, graphdef, None))
    jax_placed = jax_step.DeviceData(*jax_place(data, worlds[1]))

    whole = in_torch(indices[:2], mask[:2])
    for loss, confusion in (
        in_torch(indices, mask),
        in_jax(*states, jax_placed, indices, mask),
    ):
        np.testing.assert_allclose(float(loss), float(whole[0]), rtol=1e-12)
        np.testing.assert_array_equal(np.asarray(confusion), whole[1].numpy())
    assert whole[1].sum() == (2 if config.data.classes else 0)


@pytest.mark.parametrize("experiment", exhaustive_but(["digits_mlp"], EXPERIMENTS))
def test_gradients_are_those_of_finite_differences(
    experiment, make_config, arrays, worlds
):
    config = make_config(f"experiment={experiment}", "precision=fp64")
    weights = random_weights(config)
    graphdef, params, statistics = jax_weights.load_weights(
        jax_model.build_model(config), weights
    )
    data = jax_step.DeviceData(
        *jax_place((*arrays(config), *pixel_affine(config)), worlds[1])
    )
    images, labels = jax_step.gather(config, data, np.arange(8, dtype=np.int32))

    @jax.jit
    def loss(params):
        states = params, statistics
        return jax_step.loss_fn(config, graphdef, *states, images, labels)[0]

    gradient = jax.grad(loss)(params)
    _, direction, _ = jax_weights.load_weights(
        jax_model.build_model(config), random_weights(config, 5)
    )
    slope = sum(
        float((g * d).sum())
        for g, d in zip(
            jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True
        )
    )
    h = 1e-6
    ahead, behind = (
        jax.tree.map(lambda p, d: p + sign * h * d, params, direction)  # noqa: B023
        for sign in (1, -1)
    )
    measured = float(loss(ahead) - loss(behind)) / (2 * h)
    assert measured == pytest.approx(slope, rel=1e-6)
