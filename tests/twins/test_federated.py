"""Federated averaging is its formula, in both twins and on however many devices."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from recipe.clients import RoundPlan
from recipe.federated import of_batch_size
from report.parity.differences import leaf_differences, relative_difference
from tests.conftest import exhaustive_but
from tests.launch.conftest import PLANTED
from tests.twins.conftest import TORCH
from tests.twins.rounds import jax_rounds, rounds_of, torch_rounds
from tests.twins.steps import PLAN, random_arrays, random_weights, torch_steps
from torch_impl import federated as torch_federated

RATE = 0.1
BOUND = 1e-12  # one round or a few, where the order of sums alone may differ
PLAIN = ["optim.momentum=0", "optim.nesterov=false", "optim.weight_decay=0"]
FEDERATED = ["precision=fp64", "federated=fedavg"]
SMALL = [*FEDERATED, "data=synthetic", "task.image_shape=[8,8,1]", "model.hidden=[8]"]
# Five clients of 24 examples have 5, 5, 5, 5 and 4: the last batches are incomplete.
UNEQUAL = [*SMALL, "federated.clients=5", "federated.local_batch=2"]
UNEQUAL += ["federated.local_epochs=2", "federated.fraction=0.8", "train.steps=2"]
ALL = ["federated.fraction=1", "federated.local_epochs=1", "federated.local_batch=null"]
NORMED = [*UNEQUAL, "model=custom", f"model.folder={PLANTED}", "model.hidden=[]"]
NORMED += ["model.norm.sync=false", "federated.local_batch=3"]
TWINS = {"torch": torch_rounds, "jax": jax_rounds}


@pytest.fixture(params=TWINS)
def rounds(request):
    """A twin's rounds on random data: `rounds(config, devices)`."""

    def rounds(config, devices=1, **planted):
        given = config, random_weights(config), random_arrays(config), RATE
        return TWINS[request.param](*given, devices, **planted)

    return rounds


def apart(one, other):
    """The largest relative difference of losses, norms and weights."""
    seen = relative_difference(one[0][:, :2], other[0][:, :2]).max()
    return max(seen, *leaf_differences(one[1], other[1]).values())


def of_an_ordinary_run(config, batches):
    """Weights after steps on these batches, and the mean loss of each."""
    plain = of_batch_size(replace(config, federated=None), len(batches[0]))
    given = random_weights(config), random_arrays(config), batches, RATE, TORCH
    return torch_steps(plain, *given)


ONE = [*SMALL, "federated.clients=1", "federated.fraction=1", "train.steps=1"]
ONE += ["federated.local_epochs=1", "federated.local_batch=8", "model.dropout=0.3"]
ONE += ["data.augment.pad_crop=1", "data.augment.flip=true"]


@pytest.mark.parametrize(
    "optim", exhaustive_but(["optim=sgd"], ["optim=sgd", "optim=adamw"])
)
def test_one_client_with_all_data_trains_an_ordinary_epoch(rounds, make_config, optim):
    config = make_config(*ONE, optim)
    seen, weights = rounds(config)
    steps = [PLAN.indices(step) for step in range(3)]  # an epoch of 24 examples
    losses, expected = of_an_ordinary_run(config, steps)
    assert max(leaf_differences(weights, expected).values()) <= BOUND
    assert seen[0, 0] == pytest.approx(losses[:, 0].mean(), rel=BOUND)
    assert seen[0, 1] == pytest.approx(losses[:, 1].mean(), rel=BOUND)


def test_a_client_in_another_order_would_be_noticed(rounds, make_config, monkeypatch):
    config = make_config(*ONE)
    monkeypatch.setattr(RoundPlan, "passes", lambda plan, round: range(1, 2))
    _, weights = rounds(config)
    steps = [PLAN.indices(step) for step in range(3)]
    _, expected = of_an_ordinary_run(config, steps)
    assert max(leaf_differences(weights, expected).values()) > 1e-4


SPLITS = ["split=iid", "split=shards", "split=dirichlet federated.alpha=5"]


@pytest.mark.parametrize("split", exhaustive_but(SPLITS[2:], SPLITS))
def test_all_clients_with_full_batches_descend_the_whole_gradient(
    rounds, make_config, split
):
    config = make_config(*UNEQUAL, *ALL, *PLAIN, *f"federated.{split}".split())
    seen, weights = rounds(config)
    losses, expected = of_an_ordinary_run(config, [np.arange(24, dtype=np.int32)] * 2)
    assert max(leaf_differences(weights, expected).values()) <= BOUND
    np.testing.assert_allclose(seen[:, 0], losses[:, 0], rtol=BOUND)


def test_unequal_clients_that_count_alike_would_be_noticed(rounds, make_config):
    config = make_config(*UNEQUAL, *ALL, *PLAIN, "federated.weighting=uniform")
    _, weights = rounds(config)
    _, expected = of_an_ordinary_run(config, [np.arange(24, dtype=np.int32)] * 2)
    assert max(leaf_differences(weights, expected).values()) > 1e-5


def test_a_round_is_the_mean_of_what_each_client_becomes_alone(rounds, make_config):
    """Running statistics included."""
    config = make_config(
        *NORMED, "train.steps=1", "federated.fraction=1", "federated.local_batch=null"
    )
    plan = rounds_of(config, random_arrays(config))
    ends = [of_an_ordinary_run(config, [part] * 2)[1] for part in plan.members]
    _, weights = rounds(config)
    assert "norm.var" in weights
    for name, array in weights.items():
        parts = zip(plan.sizes / 24, ends, strict=True)
        mean = sum(share * end[name] for share, end in parts)
        np.testing.assert_allclose(array, mean, rtol=1e-11, atol=1e-13, err_msg=name)


def reversed_order(monkeypatch):
    chosen = RoundPlan.chosen
    monkeypatch.setattr(RoundPlan, "chosen", lambda *given: chosen(*given)[::-1])


@pytest.mark.parametrize("recipe", exhaustive_but([UNEQUAL], [UNEQUAL, NORMED]))
def test_the_order_of_clients_does_not_matter(rounds, make_config, monkeypatch, recipe):
    config = make_config(*recipe)
    one = rounds(config)
    reversed_order(monkeypatch)
    assert apart(one, rounds(config)) <= BOUND


def keeping_optimizer_state(monkeypatch):
    """Plant a client that starts with the momentum of the one before it."""
    monkeypatch.setattr(torch_federated, "reset_optimizer", lambda optimizer: None)

    def planted(made):
        count, last = len(made.changes), []

        def add(changes, state, start, weight):
            last[:] = [jax.numpy.copy(leaf) for leaf in state[count:]]
            return made.add(changes, state, start, weight)

        def begin(start):
            fresh = made.begin(start)
            return [*fresh[:count], *(last or fresh[count:])]

        return made._replace(add=add, begin=begin)

    return planted


def test_optimizer_state_that_outlives_a_client_would_be_noticed(
    rounds, request, make_config, monkeypatch
):
    config = make_config(*UNEQUAL)
    planted = keeping_optimizer_state(monkeypatch)
    if request.node.callspec.params["rounds"] == "jax":
        rounds = partial(rounds, planted=planted)
    one = rounds(config)
    reversed_order(monkeypatch)
    assert apart(one, rounds(config)) > 1e-5


@pytest.mark.parametrize("devices", exhaustive_but([2], [2, 4]))
@pytest.mark.parametrize(
    "recipe", exhaustive_but([UNEQUAL], [UNEQUAL, NORMED, [*UNEQUAL, "optim=adamw"]])
)
def test_the_devices_do_not_matter(rounds, make_config, recipe, devices):
    config = make_config(*recipe)
    assert apart(rounds(config), rounds(config, devices)) <= BOUND


def test_a_device_without_a_client_only_waits(rounds, make_config):
    config = make_config(*UNEQUAL, "federated.fraction=0.2", "train.steps=1")
    assert apart(rounds(config), rounds(config, 2)) <= BOUND


# The 2NN of McMahan et al. as it is, and their CNN, narrow.
MODELS = {
    "2nn": ["experiment=digits_fedavg"],
    "cnn": [
        *("experiment=mnist_fedavg", "data=synthetic", "task.image_shape=[16,16,1]"),
        *("model.channels=[3,4]", "model.hidden=[8]"),
    ],
}
SHORT = [*UNEQUAL[-4:], "federated.clients=5", "precision=fp64", "train.steps=3"]


@pytest.mark.parametrize("devices", exhaustive_but([2], [1, 2, 4]))
@pytest.mark.parametrize("model", exhaustive_but(["cnn"], MODELS))
def test_the_twins_take_the_same_rounds(make_config, model, devices):
    config = make_config(*MODELS[model], *SHORT, "optim.peak_lr=0.1")
    given = config, random_weights(config), random_arrays(config), RATE, devices
    assert apart(torch_rounds(*given), jax_rounds(*given)) <= 1e-10


def test_frozen_layers_keep_their_bits_over_rounds(rounds, make_config):
    config = make_config(*UNEQUAL, "train.freeze=[dense.0]")
    before = random_weights(config)
    _, weights = rounds(config, 2)
    kept = {name for name in before if np.array_equal(before[name], weights[name])}
    assert kept == {"dense.0.kernel", "dense.0.bias"}
