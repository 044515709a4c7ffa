"""Fine-tuning is the same in both twins, and plain torch.optim's with param groups."""

import jax
import numpy as np
import pytest
import torch

from jax_impl import checkpoint as jax_checkpoint
from jax_impl import model as jax_model
from jax_impl import optim as jax_optim
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from recipe.pixels import pixel_affine
from recipe.prefixes import is_frozen, lr_factor
from recipe.weights import decays, is_updated
from record.run import AVERAGE
from report.parity.bounds import DIFFERENT, IDENTICAL
from report.parity.compare import compare
from report.parity.differences import leaf_differences
from tests.twins.conftest import TORCH
from tests.twins.steps import EXAMPLES, random_arrays, random_weights, record
from tests.twins.two_ranks import NORMED
from torch_impl import checkpoint as torch_checkpoint
from torch_impl import model as torch_model
from torch_impl import optim as torch_optim
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights
from torch_impl.parallel import replicate

pytestmark = pytest.mark.usefixtures("promotion")  # a custom model

FREEZING = [
    *(key for key in NORMED if "augment" not in key),
    *("train.freeze=[stem,norm]", "optim.lr_factors={body: 0.5, head: 3}"),
    *("optim.clip_norm=0.5", "optim.weight_decay=0.1"),
]
RECIPES = {
    "sgd": ["optim.ema_decay=0.7"],
    "adamw": ["optim=adamw", "optim.eps=1e-3", "optim.decay=all"],
}
BATCHES = np.random.default_rng(2).integers(EXAMPLES, size=(4, 2, 4), dtype=np.int32)


@pytest.fixture(params=RECIPES)
def recipe(make_config, request):
    return make_config(*FREEZING, *RECIPES[request.param])


def test_frozen_leaves_keep_their_bits_and_all_others_move(recipe, twins):
    weights = random_weights(recipe)
    (seen, end), (also_seen, also) = (t(BATCHES) for t in twins(recipe, weights))
    for held in end, also:
        for name, array in held.items():
            start = weights[name.removeprefix(AVERAGE)]
            kept = array.tobytes() == start.tobytes()
            assert kept == is_frozen(recipe, name.removeprefix(AVERAGE)), name
    np.testing.assert_allclose(also_seen, seen, rtol=1e-12)
    assert max(leaf_differences(end, also).values()) < 1e-12


def test_steps_are_those_of_plain_torch_with_param_groups(recipe, twins):
    weights = random_weights(recipe)
    norms, expected = in_plain_torch(recipe, weights)
    for twin in twins(recipe, weights):
        seen, end = twin(BATCHES)
        np.testing.assert_allclose(seen[:, 1], norms, rtol=1e-12)
        assert max(leaf_differences(trained(end), expected).values()) < 1e-12


def in_plain_torch(config, weights):
    """Norms of the gradients, and weights, by torch.optim and a norm in eval()."""
    o, arrays = config.optim, random_arrays(config)
    data = torch_step.DeviceData(
        *(replicate(array, TORCH) for array in (*arrays, *pixel_affine(config)))
    )
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    names = torch_weights.canonical_names(model)
    for layer in model.stem, model.norm:
        layer.requires_grad_(False)
    groups = [
        {
            "params": [parameter],
            "lr": 0.1 * lr_factor(config, names[name]),
            "weight_decay": decays(config, names[name]) * o.weight_decay,
        }
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    if o.name == "sgd":
        plain = torch.optim.SGD(groups, momentum=o.momentum, nesterov=o.nesterov)
    else:
        plain = torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.eps)
    norms = []
    for micro_batches in BATCHES:
        plain.zero_grad()
        model.train()
        model.norm.eval()  # as is usual for a frozen BatchNorm
        for rows in micro_batches:
            batch = torch_step.gather(config, data, torch.from_numpy(rows))
            torch_step.loss_fn(config, model, *batch).backward()
        given = model.parameters(), o.clip_norm
        norms.append(float(torch.nn.utils.clip_grad_norm_(*given)))
        plain.step()
    return norms, torch_weights.save_weights(model, TORCH)


def trained(end):
    return {name: array for name, array in end.items() if AVERAGE not in name}


def test_checkpoints_hold_no_optimizer_state_of_frozen_leaves(recipe, worlds):
    weights = random_weights(recipe)
    wanted = {name for name in weights if is_updated(recipe, name)}
    model = torch_model.build_model(recipe)
    torch_weights.load_weights(model, weights, TORCH)
    optimizer = torch_optim.build_optimizer(recipe, model)
    given = recipe, model, optimizer, None, None, None, 1, TORCH
    in_torch, _ = torch_checkpoint.save_state(*given)
    built = jax_model.build_model(recipe)
    _, *states = jax_weights.load_weights(built, weights)
    transform = jax_optim.build_optimizer(recipe, states[0])
    given = recipe, built, *states, transform, weights, None, worlds[1]
    state = jax_checkpoint.load_state(*given)
    in_jax, _ = jax_checkpoint.save_state(state, None, 1, worlds[1])
    for arrays in in_torch, in_jax:
        assert arrays.pop("weights").keys() == weights.keys()
        arrays.pop("average", None)
        assert arrays and all(held.keys() == wanted for held in arrays.values())


def decay_on_a_frozen_leaf(monkeypatch):
    rightly = jax_step.split_frozen

    def split_frozen(config, params):
        trained, frozen = rightly(config, params)
        return trained, jax.tree.map(lambda p: p * (1 - 1e-8), frozen)

    monkeypatch.setattr(jax_step, "split_frozen", split_frozen)


def batch_statistics_in_a_frozen_norm(monkeypatch):
    monkeypatch.setattr(jax_step, "train_mode", lambda _, model: model.train())


def a_factor_forgotten(monkeypatch):
    monkeypatch.setattr(jax_optim, "lr_factor", lambda config, name: 1.0)


@pytest.mark.parametrize(
    "plant, leaf",
    [
        (None, None),
        (decay_on_a_frozen_leaf, "stem.kernel"),
        (batch_statistics_in_a_frozen_norm, "norm.mean"),
        (a_factor_forgotten, "head.kernel"),
    ],
)
def test_what_fine_tuning_breaks_is_noticed(
    make_config, monkeypatch, twins, plant, leaf
):
    config = make_config(*FREEZING)
    weights = random_weights(config)
    if plant is not None:
        plant(monkeypatch)
    (_, a), (_, b) = ends = [twin(BATCHES) for twin in twins(config, weights)]
    test = {"loss": 1.0, "accuracy": 1.0, "count": 1}
    runs = [record(config, seen, end, test) for seen, end in ends]
    found = compare(("torch", runs[0]), ("jax", runs[1]), "frameworks", None)
    assert found.verdict == (IDENTICAL if plant is None else DIFFERENT)
    if leaf is not None:
        assert leaf_differences(a, b)[leaf] > 1e-10
