"""When replicas meet and what they average, and what is refused."""

import re
from dataclasses import asdict

import numpy as np
import pytest

from recipe.batch_plan import BatchPlan
from recipe.config import leaves, recipe_hash, recipe_parts
from recipe.errors import ConfigError
from recipe.execution import LOCAL_KEYS, OuterConfig
from recipe.local_rounds import (
    Rounds,
    check_rounds,
    fragment_leaves,
    outer_update,
    round_bytes,
)
from recipe.weights import weight_shapes
from runtime.processes import Processes
from runtime.world import check_world

LOCAL = "parallel=local_sgd"
STEPS = range(1, 41)


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("every, fragments", [(1, 1), (7, 1), (7, 3), (8, 4)])
def test_a_fragment_is_averaged_every_so_many_steps_and_first_after_as_many(
    every, fragments, warmup
):
    rounds = Rounds(every, warmup, fragments)
    for fragment in range(fragments):
        met = [step - warmup for step in STEPS if fragment in rounds.due(step)]
        assert met[0] == (fragment * every // fragments or every)
        assert set(np.diff(met)) == {every}
    together = [step for step in STEPS if len(rounds.due(step)) > 1]
    assert not together  # their bursts are spread over the steps


@pytest.mark.parametrize("delay", [0, 2])
def test_a_result_arrives_after_the_delay_and_says_all_until_then(delay):
    rounds = Rounds(every=6, warmup_steps=1, fragments=2, delay=delay)
    arrived = [(s, f) for s in STEPS for f in rounds.arriving(s)]
    assert (
        arrived
        == [(s + delay, f) for s in STEPS for f in rounds.due(s)][: len(arrived)]
    )
    for step in STEPS:
        for fragment in rounds.settled(step):
            assert any(fragment in rounds.due(step - ago) for ago in range(delay + 1))


def test_one_shot_averaging_has_no_round_before_the_end():
    rounds = Rounds(every=None, warmup_steps=3)
    assert [step for step in STEPS if rounds.acts(step)] == [3]


def test_layers_are_dealt_to_fragments_in_turn_with_their_statistics(config):
    small = [LOCAL, "experiment=cifar10_resnet9", "data=synthetic"]
    recipe = config(*small, "parallel.fragments=3", "train.freeze=[prep]")
    fragments = fragment_leaves(recipe)
    layers = [list(dict.fromkeys(n.rpartition(".")[0] for n in f)) for f in fragments]
    in_order = [
        layer
        for layer in dict.fromkeys(n.rpartition(".")[0] for n in weight_shapes(recipe))
        if not layer.startswith("prep")
    ]
    assert layers == [in_order[first::3] for first in range(3)]
    named = [name for fragment in fragments for name in fragment]
    assert any(name.endswith(".var") for name in named)
    of_params = config(*small, "parallel.average=[params]")
    assert not any(n.endswith(".var") for f in fragment_leaves(of_params) for n in f)


def test_the_outer_update_that_is_skipped_is_the_average_to_rounding():
    held, average = np.random.default_rng(0).normal(size=(2, 50))
    taken, _ = outer_update(OuterConfig(), held, average, None)
    assert taken is average
    by_formula = held - 1.0 * (held - average)
    assert np.abs(by_formula - average).max() <= 4e-16 * 4
    # The sign, and a factor, would be seen.
    for wrong in held + (held - average), held - 0.99 * (held - average):
        assert np.abs(wrong - average).max() > 1e-3


def test_a_device_sends_twice_what_it_does_not_have_of_the_leaves(config):
    recipe = config(LOCAL, "model.hidden=[]", "experiment=digits_mlp")
    numbers = sum(int(np.prod(shape)) for shape in weight_shapes(recipe).values())
    assert round_bytes(recipe, 0, 1) == 0
    assert round_bytes(recipe, 0, 4) == 2 * 3 * numbers
    wide = config(LOCAL, "model.hidden=[]", "precision=fp64")
    assert round_bytes(wide, 0, 2) == 8 * numbers


NORMED = "experiment=cifar10_resnet9 data=synthetic"
ROUND = f"{LOCAL} parallel."
# What is typed, then what the answer must hold.
BAD = [
    ("parallel.every=4", "parallel.every=4", "parallel=dp", "parallel=local_sgd"),
    ("parallel=fsdp parallel.delay=1", "parallel.delay=1", "parallel=fsdp"),
    ("parallel.outer.lr=0.5", "parallel.outer.lr=0.5", "no meaning"),
    ("parallel.average=[params]", "parallel.average", "no meaning"),
    (f"{ROUND}every=0", "parallel.every", "got 0", "null"),
    (f"{ROUND}warmup_steps=-1", "parallel.warmup_steps", "got -1"),
    (f"{ROUND}outer.lr=0", "parallel.outer.lr", "got 0"),
    (f"{ROUND}outer.momentum=1", "parallel.outer.momentum", "[0, 1)"),
    (f"{ROUND}outer.nesterov=true", "outer.momentum=0.9", "nesterov=false"),
    (f"{ROUND}average=[stats]", "parallel.average", "params"),
    (f"{ROUND}average=[params,momenta]", "momenta", "params, stats"),
    (f"{ROUND}fragments=0", "parallel.fragments", "got 0"),
    (f"{ROUND}fragments=17", "parallel.fragments=17", "at most 16"),
    (f"{ROUND}delay=16", "parallel.delay=16", "at most 15", "parallel.every=17"),
    (f"{ROUND}every=null parallel.delay=1", "parallel.every=null", "needs rounds"),
    (f"{ROUND}mix=1", "parallel.mix", "[0, 1)"),
    (f"{ROUND}grad_sync=false", "parallel.grad_sync=false", "parallel=dp"),
    (f"{ROUND}fragments=3", "parallel.fragments=3", "exceeds the layers", "most 2"),
    (f"{LOCAL} precision=fp16", "precision=fp16", "skip steps alone"),
    (f"{LOCAL} optim.ema_decay=0.9", "optim.ema_decay=0.9", "null"),
    (f"{LOCAL} {NORMED}", "model.norm.sync=true", "model.norm.sync=false"),
    (f"{LOCAL} train.trace=3", "train.trace=3", "parallel=local_sgd"),
    (f"{LOCAL} train.steps=15", "parallel.every=16", "15 steps", "null"),
    (f"{ROUND}warmup_steps=9 train.steps=20", "11 steps", "after the warm-up"),
    (f"{ROUND}warmup_steps=9 train.steps=8", "parallel.warmup_steps=9", "most 8"),
]


@pytest.mark.parametrize("typed, parts", [(b[0], b[1:]) for b in BAD], ids=str)
def test_what_replicas_cannot_have_is_refused_and_says_why(config, typed, parts):
    with pytest.raises(ConfigError) as refused:
        check_world(config(*typed.split()), Processes())
    for part in parts:
        assert part in str(refused.value)


GOOD = [
    f"{ROUND}warmup_steps=20 train.steps=20",
    f"{ROUND}every=null train.steps=3",
    f"{ROUND}every=20 train.steps=20",
    f"{LOCAL} {NORMED} model.norm.sync=false",
    f"{LOCAL} {NORMED} model.norm.name=layer",
    "parallel=diloco parallel.fragments=2 parallel.delay=15 parallel.mix=0.5",
]


@pytest.mark.parametrize("typed", GOOD)
def test_what_is_on_the_bound_is_taken(config, typed):
    check_world(config(*typed.split()), Processes())


def test_epochs_that_end_before_the_first_round_are_refused(config):
    recipe = config(LOCAL, "train.epochs=1", "train.global_batch_size=64")
    check_rounds(recipe)  # the number of examples is not known yet
    with pytest.raises(ConfigError, match=re.escape("beyond the 15 steps")):
        BatchPlan.of(recipe, 15 * 64)
    assert BatchPlan.of(recipe, 16 * 64).steps == 16


def test_rounds_are_part_of_the_recipe_and_of_no_other_strategys(config):
    parts = dict(leaves(recipe_parts(config("parallel=diloco"))))
    assert parts["parallel.outer.lr"] == 0.7 and parts["parallel.name"] == "local_sgd"
    assert "parallel.timeout_seconds" not in parts
    hashes = {
        recipe_hash(config(*typed.split()))
        for typed in (LOCAL, "parallel=diloco", f"{ROUND}every=8", "", "parallel=fsdp")
    }
    assert len(hashes) == 4
    assert "parallel" not in recipe_parts(config("parallel=fsdp"))
    assert set(LOCAL_KEYS) < asdict(config())["parallel"].keys()
