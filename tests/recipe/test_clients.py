"""Which client has which examples, and which clients train in a round."""

import numpy as np
import pytest

from recipe.batch_plan import epoch_order
from recipe.clients import RoundPlan, partition, plan_of
from recipe.config import recipe_hash, recipe_parts
from recipe.errors import ConfigError
from recipe.federated import FederatedConfig
from recipe.weights import moved_bytes, weight_shapes

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 20))
SPLITS = [
    FederatedConfig(clients=7),
    FederatedConfig(clients=7, split="shards", shards_per_client=3),
    FederatedConfig(clients=7, split="dirichlet", alpha=0.3),
]


@pytest.fixture
def plan(config):
    """`plan("federated.clients=7")`: rounds over 200 examples of ten classes."""

    def plan(*overrides):
        plan = plan_of(config("federated=fedavg", "train.steps=9", *overrides), LABELS)
        assert isinstance(plan, RoundPlan)
        return plan

    return plan


def classes(members):
    return [len(set(LABELS[part])) for part in members]


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.split)
def test_every_example_belongs_to_one_client_and_the_seed_says_to_which(split):
    members = partition(split, LABELS, seed=1)
    assert sorted(np.concatenate(members).tolist()) == list(range(200))
    assert all(len(part) > 0 for part in members)
    for seed in 1, 2:
        again = partition(split, LABELS, seed)
        same = all(map(np.array_equal, members, again))
        assert same == (seed == 1)


def test_iid_clients_have_all_classes_and_differ_by_one_example_at_most():
    members = partition(FederatedConfig(clients=3), LABELS, seed=0)
    assert sorted(map(len, members)) == [66, 67, 67]
    assert classes(members) == [10, 10, 10]


def test_shards_of_whole_classes_leave_a_client_as_many_classes_at_most():
    split = FederatedConfig(clients=10, split="shards", shards_per_client=2)
    assert max(classes(partition(split, LABELS, seed=0))) == 2
    assert max(classes(partition(FederatedConfig(clients=10), LABELS, seed=0))) > 5


def test_the_smaller_alpha_is_the_fewer_classes_a_client_has():
    means = [
        np.mean(classes(partition(split, LABELS, seed=0)))
        for alpha in (0.2, 1.0, 100.0)
        for split in [FederatedConfig(clients=5, split="dirichlet", alpha=alpha)]
    ]
    assert means == sorted(means) and means[0] < means[-1] == 10


@pytest.mark.parametrize(
    ("overrides", "parts"),
    {
        "federated.fraction=0": ("(0, 1]", "got 0", "1/federated.clients = 0.01"),
        "federated.fraction=1.5": ("(0, 1]", "got 1.5"),
        "federated.clients=0": ("federated.clients", "at least 1", "got 0"),
        "federated.clients=201": ("201", "200 training", "1 clients without any"),
        "federated.local_epochs=0": ("federated.local_epochs", "at least 1"),
        "federated.local_batch=0": ("federated.local_batch", "at least 1"),
        "federated.split=random": ("federated.split=random", "dirichlet, iid, shards"),
        "federated.weighting=size": ("federated.weighting=size", "examples, uniform"),
        "federated.alpha=1": ("federated.alpha=1", "split=iid", "split=dirichlet"),
        "federated.shards_per_client=3": ("shards_per_client=3", "split=shards"),
        "federated.split=shards federated.shards_per_client=3": (
            *("federated.clients=100 x federated.shards_per_client=3", "200"),
            "more shards than",
        ),
        "federated.split=dirichlet federated.alpha=0.05": (
            *("federated.split=dirichlet", "clients without any"),
            "a larger federated.alpha",
        ),
        "parallel=fsdp": ("parallel=fsdp", "parallel=dp"),
        "parallel=pmap": ("parallel=pmap", "parallel=dp"),
        "parallel.grad_sync=false": ("grad_sync=false", "no gradients"),
        "optim.update=false": ("optim.update=false", "leave it out"),
        "optim.ema_decay=0.9": ("optim.ema_decay=0.9", "null"),
        "train.grad_accum_steps=2": ("grad_accum_steps=2", "federated.local_batch"),
        "train.trace=1": ("train.trace=1", "federated=none"),
        "precision=fp16": ("precision=fp16", "bf16"),
        "compile=true": ("compile=true", "batch size"),
        "model=resnet9": ("model.norm.sync=true", "set it to false"),
    }.items(),
    ids=str,
)
def test_what_a_federated_run_cannot_do_is_refused_in_one_sentence(
    plan, overrides, parts
):
    with pytest.raises(ConfigError) as refused:
        plan(*overrides.split())
    message = str(refused.value)
    assert [part for part in parts if part not in message] == [], message


def test_classes_are_needed_to_divide_them():
    with pytest.raises(ConfigError, match="this data has none.*split=iid"):
        partition(SPLITS[-1], np.linspace(0, 1, 20), seed=0)


@pytest.mark.parametrize(
    ("fraction", "count"), [(0.1, 1), (0.3, 3), (1, 10), (0.001, 1)]
)
def test_a_round_has_its_fraction_of_the_clients_and_at_least_one(
    plan, fraction, count
):
    rounds = plan("federated.clients=10", f"federated.fraction={fraction}")
    assert all(len(set(rounds.chosen(n).tolist())) == count for n in range(9))


def test_who_trains_depends_on_seed_and_round_alone(plan):
    keys = "federated.clients=20", "federated.fraction=0.2"
    rounds, other = plan(*keys), plan(*keys, "train.seed=1")
    in_order = [rounds.chosen(n).tolist() for n in range(9)]
    backwards = [plan(*keys).chosen(n).tolist() for n in reversed(range(9))]
    assert in_order == backwards[::-1]
    assert len(set(map(tuple, in_order))) > 6
    assert in_order != [other.chosen(n).tolist() for n in range(9)]


def test_devices_share_the_clients_of_a_round(plan):
    rounds = plan("federated.clients=20", "federated.fraction=0.5")
    for devices in 1, 2, 4, 16:
        dealt = [rounds.dealt(3, device, devices) for device in range(devices)]
        assert sorted(sum(dealt, [])) == sorted(rounds.chosen(3).tolist())
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_weights_add_up_to_one_over_the_clients_of_a_round(plan, weighting):
    rounds = plan(
        *("federated.clients=7", "federated.fraction=0.5"),
        *("federated.split=dirichlet", f"federated.weighting={weighting}"),
    )
    chosen = rounds.chosen(0)
    weights = np.array([rounds.weight(0, client) for client in chosen])
    assert weights.sum() == pytest.approx(1, abs=1e-15)
    per_example = weights / rounds.sizes[chosen]
    assert (np.ptp(per_example) < 1e-15) == (weighting == "examples")


def test_a_pass_takes_every_example_once_in_the_order_of_an_epoch(plan):
    rounds = plan("federated.clients=7", "federated.local_batch=6")
    for number in rounds.passes(1):
        batches = rounds.local_batches(2, number)
        assert {len(rows) for rows in batches[:-1]} == {6}
        order = epoch_order(0, number, 200)
        own = order[np.isin(order, rounds.members[2])]
        np.testing.assert_array_equal(np.concatenate(batches), own)
    assert list(rounds.passes(1)) == [5, 6, 7, 8, 9]


def test_a_control_trains_on_the_same_batches_in_another_order(plan):
    keys = "federated.clients=7", "federated.local_batch=6"
    plain, control = plan(*keys), plan(*keys, "train.perturb_seed=1")
    pairs = zip(plain.local_batches(2, 3), control.local_batches(2, 3), strict=True)
    orders = [one.tolist() == other.tolist() for one, other in pairs if len(one) > 1]
    assert not all(orders)
    for one, other in zip(
        plain.local_batches(2, 3), control.local_batches(2, 3), strict=True
    ):
        assert sorted(one.tolist()) == sorted(other.tolist())


def test_the_examples_of_rounds_are_those_of_their_clients_and_epochs(plan):
    rounds = plan("federated.clients=7", "federated.fraction=0.3")
    trained = [sum(len(rounds.members[k]) for k in rounds.chosen(n)) for n in range(3)]
    assert rounds.examples_in(range(3)) == 5 * sum(trained)
    assert rounds.examples_in(range(1, 2)) == 5 * trained[1]


def test_every_batch_of_a_round_has_a_size_and_a_place_that_are_known_before(plan):
    rounds = plan("federated.clients=7", "federated.split=dirichlet")
    for client in range(7):
        sizes = [
            len(rows)
            for number in rounds.passes(0)
            for rows in rounds.local_batches(client, number)
        ]
        for size in set(sizes):
            assert sizes.count(size) <= rounds.most_batches[size]


def test_a_round_is_a_window_that_counts_as_an_epoch(plan):
    windows = plan().windows(log_every_steps=20, evaluate_every_epochs=4)
    assert [len(window.steps) for window in windows] == [1] * 9
    assert [w.epoch for w in windows if w.evaluates] == [3, 7, 8]
    seldom = plan().windows(log_every_steps=20, evaluate_every_epochs=0)
    assert [len(window.steps) for window in seldom] == [1] * 9


@pytest.mark.parametrize(
    ("experiment", "parameters"),
    [
        ("fashion_fedavg", 199_210),
        ("digits_fedavg", 199_210),
        ("mnist_fedavg", 1663370),
    ],
)
def test_the_models_have_the_parameters_that_mcmahan_et_al_count(
    config, experiment, parameters
):
    recipe = config(f"experiment={experiment}")
    shapes = weight_shapes(recipe).values()
    assert sum(int(np.prod(shape)) for shape in shapes) == parameters
    assert moved_bytes(recipe) == 4 * parameters


def test_an_ordinary_recipe_does_not_mention_what_it_has_not(config):
    parts = recipe_parts(config("experiment=mnist_cnn"))
    assert "federated" not in parts and "padding" not in parts["model"]


@pytest.mark.parametrize("key", ["clients=10", "fraction=0.2", "weighting=uniform"])
def test_every_key_of_the_federation_is_part_of_the_recipe(config, key):
    one = config("experiment=digits_fedavg")
    assert recipe_hash(one) != recipe_hash(
        config("experiment=digits_fedavg", f"federated.{key}")
    )
