"""Both twins drop the same units in training, scale the others alike; none in tests."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from data.dropout import epoch_keys
from jax_impl import layers as jax_layers
from jax_impl import model as jax_model
from jax_impl import step as jax_step
from jax_impl import trace as jax_trace
from jax_impl import weights as jax_weights
from jax_impl.evaluate import evaluate as jax_evaluate
from jax_impl.parallel import replicate as jax_place
from jax_impl.precision import Dtypes as JaxDtypes
from recipe.dropout import ROUNDS, UNIT, least_kept
from recipe.pixels import pixel_affine
from report.parity.bounds import DIFFERENT, IDENTICAL
from report.parity.compare import compare
from report.parity.trace import compare_traces
from tests.conftest import exhaustive_but
from tests.twins import steps
from tests.twins.conftest import TORCH
from tests.twins.steps import EXAMPLES, random_arrays, random_weights, record
from torch_impl import layers as torch_layers
from torch_impl import model as torch_model
from torch_impl import step as torch_step
from torch_impl import trace as torch_trace
from torch_impl import weights as torch_weights
from torch_impl.evaluate import evaluate as torch_evaluate
from torch_impl.parallel import replicate as torch_place
from torch_impl.precision import Dtypes as TorchDtypes

RATES = [0.05, 0.25, 0.5, 0.9]
RECIPE = "experiment=digits_mlp", "precision=fp64", "model.hidden=[32,16]"
DROPPED = *RECIPE, "model.dropout=0.3"


def is_kept(key, unit, rate):
    """One unit at a time, in Python's integers."""
    word = key ^ unit * UNIT % 2**32
    for shift, factor in ROUNDS:
        word = (word ^ word >> shift) * factor % 2**32
    return word >= least_kept(rate)


def in_torch(keys, units, rate):
    return torch_layers.kept(torch.from_numpy(keys), units, rate).numpy()


@pytest.mark.parametrize("rate", [*RATES, 1 - 1e-12])
def test_both_twins_keep_the_units_that_plain_integers_say(rate):
    keys = np.array([0, 1, 12345, 2**31 - 1], np.int32)
    right = [[is_kept(k, unit, rate) for unit in range(300)] for k in keys.tolist()]
    np.testing.assert_array_equal(in_torch(keys, 300, rate), right)
    np.testing.assert_array_equal(jax_layers.kept(keys, 300, rate), right)


def test_jax_keeps_the_same_units_without_fp64():
    keys = np.array([7, 2**31 - 1], np.int32)
    with jax.enable_x64(False):
        np.testing.assert_array_equal(
            jax_layers.kept(keys, 5000, 0.1), in_torch(keys, 5000, 0.1)
        )


@pytest.mark.parametrize("rate", RATES)
def test_the_share_of_units_dropped_is_the_rate(rate):
    """Of all, of each unit, of each example, and of neighbours, layers and epochs."""
    layers, examples, units = ("dense.0", "dense.1"), 1000, 400
    (a, b), (c, _) = (
        (in_torch(column.copy(), units, rate) for column in keys.T)
        for keys in (epoch_keys(0, layers, epoch, examples) for epoch in (0, 1))
    )
    deviation = np.sqrt(rate * (1 - rate))
    a, b, c = ((kept - (1 - rate)) / deviation for kept in (a, b, c))
    # Five standard deviations of a mean; six of the largest of many.
    assert abs(a.mean()) <= 5 / np.sqrt(a.size)
    assert abs(a.mean(axis=0)).max() <= 6 / np.sqrt(examples)
    assert abs(a.mean(axis=1)).max() <= 6 / np.sqrt(units)
    for one, other in (a[:, 1:], a[:, :-1]), (a[1:], a[:-1]), (a, b), (a, c):
        assert abs((one * other).mean()) <= 5 / np.sqrt(one.size)


@pytest.mark.parametrize(
    "dtype", exhaustive_but(["float32"], ["float64", "float32", "bfloat16", "float16"])
)
def test_what_stays_is_scaled_alike_to_the_bit_and_so_is_its_gradient(dtype):
    wide = "float64" if dtype == "float64" else "float32"
    torch_wide, torch_dtype = getattr(torch, wide), getattr(torch, dtype)
    torchs = torch_layers.Dropout(0.1, TorchDtypes(torch_wide, torch_dtype))
    jaxs = jax_layers.Dropout(0.1, JaxDtypes(jnp.dtype(wide), jnp.dtype(dtype)))
    keys = np.array([[3, 4], [5, 6], [7, 8]], np.int32)
    numbers, weight = np.random.default_rng(0).normal(size=(2, 3, 5, 7))

    x = torch.tensor(numbers).to(torch_dtype).requires_grad_()
    y = torchs(x, torch.from_numpy(keys), 1)
    y.backward(torch.tensor(weight).to(torch_dtype))
    given = jnp.asarray(numbers, dtype), jnp.asarray(weight, dtype)
    in_jax, pull = jax.vjp(lambda x: jaxs(x, keys, 1), given[0])
    (gradient,) = pull(given[1])
    assert y.dtype == torch_dtype and in_jax.dtype == given[0].dtype
    np.testing.assert_array_equal(y.detach().double(), np.asarray(in_jax, np.float64))
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.double(), np.asarray(gradient, np.float64))

    kept = in_torch(keys[:, 1].copy(), 35, 0.1).reshape(3, 5, 7)
    np.testing.assert_array_equal(y.detach().double() != 0, kept)
    np.testing.assert_allclose(y.detach().double(), kept * numbers / 0.9, rtol=1e-2)


def evaluated(config, weights, world):
    """The test metrics of either twin."""
    data = (*random_arrays(config), *pixel_affine(config))
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    model.train()  # as after a step
    placed = torch_step.DeviceData(*(torch_place(a, TORCH) for a in data))
    yield torch_evaluate(config, model, placed, EXAMPLES, TORCH)
    graphdef, *states = jax_weights.load_weights(jax_model.build_model(config), weights)
    state = jax_step.TrainState(*jax_place(tuple(states), world), None, None)
    evaluate = jax.jit(partial(jax_step.eval_step, config, graphdef, None))
    placed = jax_step.DeviceData(*jax_place(data, world))
    yield jax_evaluate(config, evaluate, state, placed, EXAMPLES, world)


VIT = [
    *("experiment=cifar10_vit_tiny", "precision=fp64", "data=synthetic"),
    *("task.image_shape=[8,8,3]", "model.width=0.125", "model.blocks=1"),
]


@pytest.mark.parametrize(
    "recipe", [RECIPE, ("experiment=digits_cnn", "precision=fp64"), VIT], ids=" ".join
)
def test_evaluation_drops_nothing(recipe, make_config, worlds):
    plain, dropping = (make_config(*recipe, f"model.dropout={p}") for p in (0, 0.5))
    weights = random_weights(plain)
    ends = (evaluated(config, weights, worlds[1]) for config in (plain, dropping))
    for without, with_it in zip(*ends, strict=True):
        assert with_it == without


def another_seed(monkeypatch):
    monkeypatch.setattr(steps, "PLAN", replace(steps.PLAN, seed=1))


def no_scaling(monkeypatch):
    def call(self, x, keys_BL, layer):
        if keys_BL is None:
            return x
        kept_BU = jax_layers.kept(keys_BL[:, layer], x[0].size, self.rate)
        return jnp.where(kept_BU.reshape(x.shape), x, 0)

    monkeypatch.setattr(jax_layers.Dropout, "__call__", call)


def another_layers_mask(monkeypatch):
    rightly = jax_layers.Dropout.__call__

    def call(self, x, keys_BL, layer):
        return rightly(self, x, keys_BL, 1 - layer)

    monkeypatch.setattr(jax_layers.Dropout, "__call__", call)


def dropped_in_evaluation(monkeypatch):
    rightly = jax_layers.Dropout.__call__

    def call(self, x, keys_BL, layer):
        if keys_BL is None:
            keys_BL = jnp.arange(2 * len(x)).reshape(-1, 2)
        return rightly(self, x, keys_BL, layer)

    monkeypatch.setattr(jax_layers.Dropout, "__call__", call)


PLANTED = {
    "nothing": (lambda _: None, None),
    "another seed": (another_seed, "loss"),
    "no scaling": (no_scaling, "loss"),
    "another layer's mask": (another_layers_mask, "loss"),
    "dropped in evaluation": (dropped_in_evaluation, "the test loss"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_parity_catches_what_one_twin_drops_otherwise(
    planted, make_config, twins, worlds, monkeypatch
):
    plant, parts = PLANTED[planted]
    config = make_config(*DROPPED)
    weights = random_weights(config)
    in_torch, in_jax = twins(config, weights)
    batches = np.random.default_rng(2).integers(EXAMPLES, size=(3, 8), dtype=np.int32)
    seen = [in_torch(batches)]
    plant(monkeypatch)
    seen.append(in_jax(batches))
    tests = evaluated(config, weights, worlds[1])
    runs = [record(config, *s, test) for s, test in zip(seen, tests, strict=True)]
    found = compare(("a", runs[0]), ("b", runs[1]), "frameworks", None)
    assert found.verdict == (DIFFERENT if parts else IDENTICAL)
    assert not parts or any(parts in reason for reason in found.broken)


@pytest.mark.parametrize("planted", [False, True])
def test_a_trace_names_the_dropout_that_parts(
    planted, make_config, worlds, monkeypatch
):
    if planted:
        no_scaling(monkeypatch)
    config = make_config(*DROPPED)
    weights, world = random_weights(config), worlds[1]
    data = (*random_arrays(config), *pixel_affine(config))
    rows = np.arange(8, dtype=np.int32)
    keys = epoch_keys(0, ("dense.0", "dense.1"), 0, 8)

    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    placed = torch_step.DeviceData(*(torch_place(a, TORCH) for a in data))
    batch = torch_place(rows, TORCH), None, torch_place(keys, TORCH)
    one = torch_trace.trace_step(config, model, placed, *batch, None, 1, TORCH)

    graphdef, *states = jax_weights.load_weights(jax_model.build_model(config), weights)
    state = jax_step.TrainState(*jax_place(tuple(states), world), None, None)
    placed = jax_step.DeviceData(*jax_place(data, world))
    batch = jax_place(rows, world), None, jax_place(keys, world)
    other = jax_trace.trace_step(config, graphdef, state, placed, *batch, 1)

    # Their updates alone are not compared here.
    ends = (one, weights), (other, weights)
    found = compare_traces(*ends, [], experiment="", precision="fp64")
    named = found.first and (found.first.what, found.suspects.partition(";")[0])
    dropout = "the output of dropout", "masks drawn differently, or scaled"
    assert named == (dropout if planted else None)
