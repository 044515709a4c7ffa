"""A custom model's nn.Dropout and nnx.Dropout drop the same units, or are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.utils.checkpoint import checkpoint

from data.dropout import epoch_keys
from jax_impl import own_dropout as jax_own
from jax_impl.weights import leaf_shapes
from recipe.errors import ConfigError
from tests.conftest import exhaustive_but
from torch_impl import own_dropout as torch_own
from torch_impl.layers import kept as kept_in_torch

RATE, EXAMPLES = 0.4, 3
KEYS = np.array([[5], [123456], [2**31 - 1]], np.int32)


class Torch(nn.Module):
    """Drops twice from the same."""

    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        return self.drop(x), self.drop(x)


class Jax(nnx.Module):
    def __init__(self, drop):
        self.drop = drop

    def __call__(self, x):
        return self.drop(x), self.drop(x)


@pytest.fixture
def own(make_config, tmp_path):
    """A config whose shapes.py names one layer, `drop`, of RATE; any precision."""
    source = f"def dropout_rates(config):\n    return {{'drop': {RATE}}}\n"
    (tmp_path / "shapes.py").write_text(source)

    def own(*overrides):
        return make_config("model=custom", f"model.folder={tmp_path}", *overrides)

    return own


@pytest.fixture
def keyed(own):
    """Both models with the masks of Duet."""

    def keyed(torch_drop=None, jax_drop=None, precision="fp64"):
        config = own(f"precision={precision}")
        in_torch = Torch(torch_drop or nn.Dropout(RATE))
        in_jax = Jax(jax_drop or nnx.Dropout(RATE, rngs=nnx.Rngs(0)))
        torch_own.key_dropout(config, in_torch)
        jax_own.key_dropout(config, in_jax)
        return in_torch, in_jax

    return keyed


@pytest.mark.parametrize(
    ("shape", "to_torch", "channels"),
    [
        ((5,), (0, 1), None),
        ((4, 6), (0, 1, 2), None),
        ((4, 6), (0, 2, 1), 1),
        ((4, 5, 6), (0, 3, 1, 2), None),
        ((4, 5, 6), (0, 1, 2, 3), -1),
        ((2, 4, 5, 6), (0, 1, 2, 3, 4), None),
    ],
    ids=["features", "tokens", "Conv1d", "images", "attention", "five axes"],
)
@pytest.mark.parametrize(
    "dtype", exhaustive_but(["float32"], ["float64", "float32", "bfloat16", "float16"])
)
def test_both_drop_the_units_in_jaxs_order_of_axes(
    shape, to_torch, channels, dtype, keyed
):
    precision = {"float64": "fp64", "bfloat16": "bf16", "float16": "fp16"}
    layer = channels and torch_own.AxisDropout(RATE, channels)
    ours, theirs = keyed(layer, precision=precision.get(dtype, "fp32"))
    numbers = np.random.default_rng(0).normal(size=(EXAMPLES, *shape))
    x = torch.tensor(numbers).permute(to_torch).to(getattr(torch, dtype))
    calls = ours(x, torch.from_numpy(KEYS))
    back = np.argsort(to_torch).tolist()
    found = [y.permute(back).double().numpy() for y in calls]
    calls = theirs(jnp.asarray(numbers, dtype), KEYS)
    for one, other in zip(found, calls, strict=True):
        np.testing.assert_array_equal(one, np.asarray(other, np.float64))
    keys = torch.from_numpy(KEYS[:, 0].copy())
    kept = kept_in_torch(keys, numbers[0].size, RATE).numpy()
    np.testing.assert_array_equal(found[0].reshape(EXAMPLES, -1) != 0, kept)


def test_every_call_drops_other_units_at_the_same_rate(keyed):
    ours, _ = keyed()
    keys = epoch_keys(0, ("drop",), 0, 1000)
    x = torch.ones(1000, 400, dtype=torch.float64)
    once, again = (y.numpy() != 0 for y in ours(x, torch.from_numpy(keys.copy())))
    deviation = np.sqrt(RATE * (1 - RATE))
    a, b = ((kept - (1 - RATE)) / deviation for kept in (once, again))
    # Five standard deviations of a mean.
    assert abs(b.mean()) <= 5 / np.sqrt(b.size)
    assert abs((a * b).mean()) <= 5 / np.sqrt(a.size)
    assert abs((a[:, 1:] * b[:, :-1]).mean()) <= 5 / np.sqrt(a.size)


def test_a_forward_pass_counts_its_own_calls_alone(keyed):
    ours, theirs = keyed()
    numbers = np.ones((EXAMPLES, 50))
    for model, x, keys in (
        (ours, torch.tensor(numbers), torch.from_numpy(KEYS)),
        (theirs, jnp.asarray(numbers), KEYS),
    ):
        first, second = (np.stack([*map(np.asarray, model(x, keys))]) for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_evaluation_drops_nothing_and_needs_no_keys(keyed):
    for model, x in zip(keyed(), (torch.ones(3, 9), jnp.ones((3, 9))), strict=True):
        model.eval()
        for y in model(x):
            np.testing.assert_array_equal(np.asarray(y), np.ones((3, 9)))


def test_dropout_that_is_left_on_in_evaluation_is_told_with_its_twin(own):
    class On(Torch):
        def forward(self, x):
            return self.drop.train()(x)

    class OnJax(Jax):
        def __call__(self, x):
            return self.drop(x, deterministic=False)

    ours, theirs = On(nn.Dropout(RATE)), OnJax(nnx.Dropout(RATE))
    torch_own.key_dropout(own(), ours)
    jax_own.key_dropout(own(), theirs)
    for twin, model, x, keys in (
        ("torch", ours, torch.ones(3, 9), torch.from_numpy(KEYS)),
        ("jax", theirs, jnp.ones((3, 9)), KEYS),
    ):
        model(x, keys)
        model.eval()
        told = f"{twin}_model.py: drop: dropout is on in evaluation.*; leave it to"
        with pytest.raises(ConfigError, match=told):
            model(x)


def test_training_without_keys_is_refused(keyed):
    for model, x in zip(keyed(), (torch.ones(3, 9), jnp.ones((3, 9))), strict=True):
        model.train()
        with pytest.raises(ConfigError, match="drop: .* no keys for its masks"):
            model(x)


def test_the_state_of_flaxs_generator_is_no_leaf(keyed):
    assert leaf_shapes(keyed()[1]) == {}
    unkeyed = Jax(nnx.Dropout(RATE, rngs=nnx.Rngs(0)))
    assert leaf_shapes(unkeyed).keys() == {"drop.rngs.count", "drop.rngs.key"}


def test_a_layer_under_two_names_is_one_of_the_first(own):
    ours, theirs = Torch(nn.Dropout(RATE)), Jax(nnx.Dropout(RATE))
    ours.zz, theirs.zz = ours.drop, theirs.drop
    torch_own.key_dropout(own(), ours)
    jax_own.key_dropout(own(), theirs)
    assert torch_own.held_rates(ours) == jax_own.held_rates(theirs) == {"drop": RATE}


def test_a_rate_of_zero_drops_nothing_in_training_without_any_key(keyed):
    models = keyed(nn.Dropout(0), nnx.Dropout(0))
    for model, x in zip(models, (torch.ones(3, 9), jnp.ones((3, 9))), strict=True):
        model.train()
        np.testing.assert_array_equal(np.asarray(model(x)[0]), np.ones((3, 9)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"torch_drop": nn.Dropout2d(RATE)}, "drop is of Dropout2d; only nn.Dropout"),
        ({"torch_drop": nn.AlphaDropout(RATE)}, "drop is of AlphaDropout"),
        ({"torch_drop": nn.Dropout(1.0)}, r"drop: .* \[0, 1\), got 1.0"),
        ({"jax_drop": nnx.Dropout(1.0)}, r"drop: .* \[0, 1\), got 1.0"),
        ({"jax_drop": nnx.Dropout(RATE, broadcast_dims=(1,))}, r"broadcast_dims=\(1,"),
    ],
)
def test_a_layer_without_masks_is_refused_by_name(given, told, keyed):
    with pytest.raises(ConfigError, match=told):
        keyed(**given)


def test_rows_that_are_no_examples_are_refused(keyed):
    ours, theirs = keyed()
    told = "drop: dropout of 6 rows in a batch of 3 examples"
    with pytest.raises(ConfigError, match=told):
        ours(torch.ones(6, 4), torch.from_numpy(KEYS))
    with pytest.raises(ConfigError, match=told):
        theirs(jnp.ones((6, 4)), KEYS)


def test_recomputing_in_the_backward_pass_is_refused_in_torch_and_right_in_jax(own):
    class Again(Torch):
        def forward(self, x):
            return checkpoint(self.drop, x, use_reentrant=False)

    class AgainJax(Jax):
        def __call__(self, x):
            return nnx.remat(lambda drop, x: jnp.square(drop(x)))(self.drop, x)

    ours, theirs = Again(nn.Dropout(RATE)), AgainJax(nnx.Dropout(RATE))
    torch_own.key_dropout(own(), ours)
    jax_own.key_dropout(own(), theirs)
    x = torch.ones(EXAMPLES, 4, requires_grad=True)
    y = ours(x * 2, torch.from_numpy(KEYS))
    with pytest.raises(ConfigError, match="activation checkpointing"):
        y.sum().backward()

    graphdef, state = nnx.split(theirs)

    def total(x):
        return nnx.merge(graphdef, state)(x, KEYS).sum()

    kept = kept_in_torch(torch.from_numpy(KEYS[:, 0].copy()), 4, RATE).numpy()
    gradient = jax.grad(total)(jnp.ones((EXAMPLES, 4)))
    np.testing.assert_allclose(gradient, kept * 2 / (1 - RATE) ** 2)
