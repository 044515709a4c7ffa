"""Local SGD is its definition, and the same in both twins."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from jax_impl import local_sgd as jax_local
from recipe import local_rounds
from recipe.local_rounds import Rounds
from report.parity.differences import leaf_differences, relative_difference
from tests.conftest import exhaustive_but
from tests.twins.replicas import TWINS, Steps, in_jax, in_torch
from tests.twins.small_models import NARROW, one_block_a_stage
from tests.twins.two_ranks import NORMED as PLANTED
from torch_impl import local_sgd as torch_local

FP64 = 1e-10  # the contract's, over 100 steps
ROUNDING = 1e-13  # of a few steps
SMALL = ["precision=fp64", "train.global_batch_size=8"]
MLP = [*SMALL, "experiment=digits_mlp", "model.hidden=[6]"]
NORMED = [*PLANTED, *SMALL, "train.grad_accum_steps=1", "model.norm.sync=false"]
MODELS = {
    "mlp": MLP,
    "cnn": [
        *(*SMALL, "experiment=digits_cnn", "model.channels=[2,3]"),
        "model.hidden=[5]",
    ],
    "resnet9": [
        *(*NARROW, "model=resnet9", "model.norm.sync=false", *SMALL),
        *("task.image_shape=[8,8,3]", "train.global_batch_size=16"),
    ],
    "vit": [*NARROW, "model=vit_tiny", "model.blocks=1", *SMALL],
}
LOCAL, DILOCO = "parallel=local_sgd", "parallel=diloco"
EVERY_STEP = [LOCAL, "parallel.every=1"]

twins = pytest.mark.parametrize("twin", TWINS)


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    one_block_a_stage(monkeypatch)


@pytest.fixture
def ended(make_config):
    """`ended("jax", 2, "optim=adamw", steps=6)`: what so many replicas end with."""

    def ended(twin, count, *overrides, steps=6):
        return TWINS[twin](Steps.of(make_config(*overrides), steps), count)

    return ended


def apart(one, other):
    """The largest relative difference of any loss or weight."""
    losses = relative_difference(one.losses, other.losses).max()
    return max(losses, *leaf_differences(one.weights, other.weights).values())


LINEAR = {
    "plain": ["optim.momentum=0", "optim.nesterov=false"],
    "heavy ball": ["optim.momentum=0.9", "optim.nesterov=false"],
    "Nesterov": ["optim.momentum=0.9", "optim.nesterov=true"],
    "coupled decay": ["optim.momentum=0.9", "optim.weight_decay=0.1"],
}
OTHERS = {
    "adamw": [*MLP, "optim=adamw"],
    "clipping": [*MLP, "optim.clip_norm=0.1"],
    "local norms": NORMED,
}


def of_one_step(ended, twin, *overrides):
    """Local SGD with a round after each step, and data parallelism."""
    local = ended(twin, 2, *overrides, *EVERY_STEP)
    return local, ended(twin, 1, *overrides)


@pytest.mark.parametrize(
    ("twin", "optimizer"),
    exhaustive_but(
        [("torch", "Nesterov"), ("jax", "coupled decay")], product(TWINS, LINEAR)
    ),
)
def test_a_round_after_each_step_is_dp_where_the_optimizer_is_linear(
    ended, twin, optimizer
):
    local, dp = of_one_step(ended, twin, *MLP, *LINEAR[optimizer])
    assert apart(local, dp) <= ROUNDING
    for name, momentum in dp.arrays.get("momentum", {}).items():
        mean = local.arrays["replicas.momentum"][name].mean(axis=0)
        np.testing.assert_allclose(mean, momentum, atol=1e-14)


@pytest.mark.parametrize(
    ("twin", "what"),
    exhaustive_but([("torch", "adamw"), ("jax", "clipping")], product(TWINS, OTHERS)),
)
def test_it_is_not_where_something_is_not_linear(ended, twin, what):
    of_dp = ["model.norm.sync=true"] if what == "local norms" else []
    local = ended(twin, 2, *OTHERS[what], *EVERY_STEP)
    assert apart(local, ended(twin, 1, *OTHERS[what], *of_dp)) > 1e-6


@twins
def test_outer_nesterov_over_single_plain_steps_is_nesterov(ended, twin):
    plain = [*MLP, *LINEAR["plain"]]
    outer = ["parallel.outer={lr: 1, momentum: 0.9, nesterov: true}"]
    nesterov = ended(twin, 1, *MLP, *LINEAR["Nesterov"])
    assert apart(ended(twin, 2, *plain, *EVERY_STEP, *outer), nesterov) <= ROUNDING
    heavy = [*outer, "parallel.outer.nesterov=false"]
    assert apart(ended(twin, 2, *plain, *EVERY_STEP, *heavy), nesterov) > 1e-6


@twins
def test_one_replica_is_the_plain_run_bit_for_bit_and_diloco_is_not(ended, twin):
    plain = ended(twin, 1, *NORMED)
    local = ended(twin, 1, *NORMED, LOCAL, "parallel.every=4", "parallel.fragments=2")
    np.testing.assert_array_equal(local.losses, plain.losses)
    for name, array in plain.weights.items():
        np.testing.assert_array_equal(local.weights[name], array, err_msg=name)
    assert [row["bytes"] for row in local.rounds] == [0] * len(local.rounds)
    diloco = ended(twin, 1, *NORMED, DILOCO, "parallel.every=4")
    assert apart(diloco, plain) > 1e-6


@twins
def test_without_rounds_the_result_is_the_mean_of_runs_on_a_part_each(
    make_config, twin
):
    config = make_config(*MLP, LOCAL, "parallel.every=null")
    steps = Steps.of(config, 6)
    once = TWINS[twin](steps, 2)
    alone = make_config(*MLP, "train.global_batch_size=4")
    ends = [
        TWINS[twin](Steps(alone, steps.weights, steps.arrays, rows), 1)
        for rows in np.split(steps.rows, 2, axis=1)
    ]
    for name, array in once.weights.items():
        mean = np.mean([end.weights[name] for end in ends], axis=0)
        np.testing.assert_allclose(array, mean, rtol=1e-12, atol=1e-14, err_msg=name)
    assert once.rounds == []
    # So it is where the first round would be after the last step.
    last = TWINS[twin](Steps.of(make_config(*MLP, LOCAL, "parallel.every=6"), 6), 2)
    assert apart(once, last) <= ROUNDING and len(last.rounds) == 1


@twins
def test_a_run_that_warms_up_to_its_end_is_dp(ended, twin):
    warm = ended(twin, 2, *MLP, *LINEAR["Nesterov"], DILOCO, "parallel.warmup_steps=6")
    dp = ended(twin, 1, *MLP, *LINEAR["Nesterov"])
    assert apart(warm, dp) <= ROUNDING
    assert relative_difference(warm.norms, dp.norms).max() <= ROUNDING
    keys = [*MLP, *LINEAR["Nesterov"], *EVERY_STEP, "parallel.outer.lr=0.9"]
    assert apart(ended(twin, 2, *keys, "parallel.warmup_steps=5"), dp) > 1e-6


# H, warm-up, fragments, delay, mix, replicas; each with an outer optimizer or without.
SETTINGS = {
    "1": ["parallel.every=1"],
    "4": ["parallel.every=4", "parallel.warmup_steps=5"],
    "4, fragments, delay": [
        *("parallel.every=4", "parallel.fragments=2", "parallel.delay=1"),
        "parallel.mix=0.25",
    ],
    "7, fragments": ["parallel.every=7", "parallel.fragments=2"],
    "7, delay": ["parallel.every=7", "parallel.delay=1"],
}
SAME = [
    (model, setting, outer, count)
    for model in MODELS
    for setting, outer, count in (
        ("4, fragments, delay", DILOCO, 4),
        ("4", DILOCO, 2),
        ("1", LOCAL, 2),
        ("7, fragments", LOCAL, 4),
        ("7, delay", DILOCO, 2),
    )[: {"resnet9": 2, "vit": 1}.get(model, 5)]  # these take long to compile
]
KEPT = [("mlp", "4, fragments, delay", DILOCO, 4), ("resnet9", "4", DILOCO, 2)]


@pytest.mark.parametrize(
    ("model", "setting", "outer", "count"), exhaustive_but(KEPT, SAME), ids=str
)
def test_both_twins_train_the_same_replicas(make_config, model, setting, outer, count):
    keys = [*MODELS[model], outer, *SETTINGS[setting], *LINEAR["Nesterov"]]
    steps = replace(Steps.of(make_config(*keys), 100), rate=0.001)
    one, other = in_torch(steps, count), in_jax(steps, count)
    assert apart(one, other) <= FP64
    assert relative_difference(one.norms, other.norms).max() <= FP64
    for kind, arrays in one.arrays.items():
        assert max(leaf_differences(arrays, other.arrays[kind]).values()) <= FP64, kind
    assert len(one.rounds) == len(other.rounds) > 0
    for row, twin in zip(one.rounds, other.rounds, strict=True):
        assert row.pop("kind") == twin.pop("kind") == "round"
        assert row == pytest.approx(twin, rel=1e-8, abs=1e-13)


EVERYTHING = [
    *(DILOCO, "parallel.every=5", "parallel.fragments=2", "parallel.delay=2"),
    *("parallel.mix=0.5", "parallel.warmup_steps=2", "optim=adamw"),
]


@pytest.fixture
def resumed(make_config):
    """`resumed("jax", 8)`: twelve steps in one go, the first eight, and the others.

    What the first left is changed by `damage` before the others take it.
    """

    def resumed(twin, at, damage=dict):
        steps = Steps.of(make_config(*NORMED, *EVERYTHING), 12)
        before = TWINS[twin](replace(steps, rows=steps.rows[:at]), 2)
        left = replace(before, arrays=damage(before.arrays))
        after = TWINS[twin](replace(steps, resumed=left), 2)
        return TWINS[twin](steps, 2), before, after

    return resumed


@pytest.mark.parametrize(
    ("twin", "at"),
    exhaustive_but([("torch", 8), ("jax", 9)], product(TWINS, (2, 8, 9))),
)
def test_a_run_resumed_in_the_middle_of_a_round_is_the_uninterrupted_one(
    resumed, twin, at
):
    whole, before, after = resumed(twin, at)
    np.testing.assert_array_equal(after.losses, whole.losses[at:])
    assert [*before.rounds, *after.rounds] == whole.rounds
    assert after.arrays.keys() == whole.arrays.keys()
    for kind, arrays in whole.arrays.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(after.arrays[kind][name], array, err_msg=name)


def other_replicas(kind):
    """What a checkpoint would hold whose replicas had changed places."""
    return lambda held: {
        **held,
        kind: {name: rows[::-1] for name, rows in held[kind].items()},
    }


DAMAGE = {
    "outer": lambda held: {
        **held,
        "outer": {n: held["replicas.weights"][n][0] for n in held["outer"]},
    },
    "outer momentum": lambda held: {
        **held,
        "outer.momentum": {n: 0 * a for n, a in held["outer.momentum"].items()},
    },
    "replicas' weights": other_replicas("replicas.weights"),
    "replicas' moments": other_replicas("replicas.adam.m"),
}


@pytest.mark.parametrize(
    ("twin", "lost"),
    exhaustive_but(
        [("torch", "outer"), ("jax", "outer")],
        [*product(["torch"], DAMAGE), ("jax", "outer")],
    ),
)
def test_a_checkpoint_that_lacked_any_of_it_would_be_noticed(resumed, twin, lost):
    whole, _, after = resumed(twin, 8, DAMAGE[lost])
    assert max(leaf_differences(after.weights, whole.weights).values()) > 1e-9


def first_at_once(rounds, step):
    """As torch's `PeriodicModelAverager`: the first average after the first step."""
    return RIGHTLY["due"](rounds, step + rounds.every - 1)


def other_sign(outer, held, average, momentum):
    return RIGHTLY["update"](outer, held, 2 * held - average, momentum)


RIGHTLY = {"due": Rounds.due, "update": local_rounds.outer_update}
# What is planted in both twins, and by which law it is noticed: where, its name, what
# stands there instead, and the settings that differ from what they equal.
PLANTED = {
    "the first average after one step": (Rounds, "due", first_at_once),
    "a pseudo-gradient of the other sign": (local_rounds, "outer_update", other_sign),
}


@pytest.mark.parametrize(
    ("twin", "planted"),
    exhaustive_but(
        [
            ("torch", "the first average after one step"),
            ("jax", "a pseudo-gradient of the other sign"),
        ],
        product(TWINS, PLANTED),
    ),
)
def test_what_public_implementations_do_otherwise_is_noticed(
    ended, twin, planted, monkeypatch
):
    keys = [*MLP, DILOCO, "parallel.every=4"]
    rightly = ended(twin, 2, *keys)
    monkeypatch.setattr(*PLANTED[planted])
    assert apart(ended(twin, 2, *keys), rightly) > 1e-6


@pytest.mark.parametrize("planted", ["a sum", "statistics of its own"])
def test_a_difference_in_one_twin_is_noticed(make_config, monkeypatch, planted):
    config = make_config(*NORMED, LOCAL, "parallel.every=3")
    steps, mean = Steps.of(config, 7), torch_local.mean_over_devices
    if planted == "a sum":
        twice = lambda tensors, world: [2 * t for t in mean(tensors, world)]  # noqa: E731
        monkeypatch.setattr(torch_local, "mean_over_devices", twice)
    else:
        own = local_rounds.fragment_leaves
        monkeypatch.setattr(
            jax_local,
            "fragment_leaves",
            lambda config: [
                [name for name in names if not name.endswith(".var")]
                for names in own(config)
            ],
        )
    one, other = in_torch(steps, 2), in_jax(steps, 2)
    assert max(leaf_differences(one.weights, other.weights).values()) > 1e-6


@twins
def test_statistics_that_are_not_averaged_are_the_first_replicas(ended, twin):
    keys = [*NORMED, LOCAL, "parallel.every=4"]
    end = ended(twin, 2, *keys, "parallel.average=[params]")
    of_replicas = end.arrays["replicas.weights"]
    for name, array in end.weights.items():
        if name.endswith((".mean", ".var")):
            np.testing.assert_array_equal(array, of_replicas[name][0])
            assert not np.array_equal(*of_replicas[name])
    averaged = ended(twin, 2, *keys)
    name = next(name for name in end.weights if name.endswith(".var"))
    own = averaged.arrays["replicas.weights"][name]
    np.testing.assert_allclose(averaged.weights[name], own.mean(axis=0), rtol=1e-12)


@twins
def test_frozen_leaves_keep_their_bits_and_are_not_sent(ended, make_config, twin):
    keys = [*NORMED, DILOCO, "parallel.every=2"]
    end = ended(twin, 2, *keys, "train.freeze=[stem,norm]")
    start = Steps.of(make_config(*keys), 1).weights
    frozen = [name for name in start if name.startswith(("stem.", "norm."))]
    assert any(name.endswith(".var") for name in frozen)
    for name in frozen:
        np.testing.assert_array_equal(end.weights[name], start[name], err_msg=name)
    whole = ended(twin, 2, *keys)
    spared = sum(start[name].nbytes for name in frozen)
    assert whole.rounds[0]["bytes"] - end.rounds[0]["bytes"] == spared


@twins
def test_the_spread_is_that_of_the_replicas_before_they_meet(ended, twin):
    keys = [*MLP, LOCAL, "parallel.every=6"]
    end = ended(twin, 2, *keys)
    (row,) = end.rounds
    alone = ended(twin, 2, *MLP, LOCAL, "parallel.every=null")
    rows = alone.arrays["replicas.weights"].values()
    squares = sum(((r - r.mean(axis=0)) ** 2).sum() for r in rows) / 2
    assert row["spread"] == pytest.approx(np.sqrt(squares), rel=1e-9)
    start = ended(twin, 2, *keys, steps=1).arrays["outer"]
    moved = sum(((start[n] - end.weights[n]) ** 2).sum() for n in start)
    assert row["pseudo_gradient_norm"] == pytest.approx(np.sqrt(moved), rel=1e-9)
