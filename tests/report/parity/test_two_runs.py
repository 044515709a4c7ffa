"""Two finished runs held together, on records made by hand."""

import numpy as np
import pytest

from recipe.errors import RecordError
from record.run import Run
from report.parity.bounds import (
    DIFFERENT,
    IDENTICAL,
    UNDECIDED,
)
from report.parity.compare import compare_two


@pytest.fixture
def make_run(make_config, tmp_path):
    def make(
        *overrides,
        losses=(2.0, 1.5, 1.0),
        weight=1.0,
        bias=0.0,
        fingerprint="data",
        anyway=(),
        scales=None,
        devices=("cpu",),
    ):
        config = make_config(*overrides)
        return Run(
            path=tmp_path,
            config=config,
            environment={"devices": devices, "processor": "a CPU"},
            summary={
                "framework": "torch",
                "world_size": config.devices or 1,
                "precision": config.precision.name,
                "config_hash": "recipe",
                "data_fingerprint": fingerprint,
                "resumed_anyway": list(anyway),
                "test": {"loss": 1.0, "accuracy": 0.9, "confusion": [[10]]},
            },
            rows=[
                {
                    **{"kind": "step", "loss": loss, "loss_scale": scale},
                    **{"grad_norm": 1.0, "learning_rate": 1e-3},
                }
                for loss, scale in zip(
                    losses, scales or [1.0] * len(losses), strict=True
                )
            ],
            weights={
                "dense.0.kernel": np.full((2, 3), weight),
                "dense.0.bias": np.array([bias, -bias / 2, 0.0]),
            },
        )

    return make


def held(a, b):
    return compare_two(("a", a), ("b", b))


def test_place_layout_and_looks_are_no_part_of_a_recipe(make_run):
    other = make_run("devices=2", "run.dir=x", "tracking=wandb", "parallel=pmap")
    verdict = held(make_run(), other)
    assert verdict.verdict == IDENTICAL
    assert not [note for note in verdict.notes if "recipes" in note]


@pytest.mark.parametrize(
    ("precisions", "by", "verdict"),
    [
        (("fp64", "fp64"), 1e-9, DIFFERENT),
        (("fp64", "fp32"), 1e-9, IDENTICAL),
        (("fp32", "fp64"), 2e-3, DIFFERENT),
    ],
)
def test_the_looser_precisions_bound_applies(make_run, precisions, by, verdict):
    a, b = (make_run(f"precision={name}") for name in precisions)
    b = make_run(f"precision={precisions[1]}", losses=(2.0, 1.5, 1.0 + by))
    found = held(a, b)
    assert found.verdict == verdict
    assert found.precision == max(precisions, key=["fp64", "fp32"].index)


def test_fp32_says_that_no_controls_decided(make_run):
    (note,) = held(make_run("precision=fp32"), make_run("precision=fp32")).notes
    assert "without controls" in note
    assert not held(make_run("precision=fp64"), make_run("precision=fp64")).notes


def test_keys_that_differ_are_named_with_both_values(make_run):
    a = make_run("precision=fp64", "optim.momentum=0.9", "train.seed=1")
    b = make_run("precision=fp64", "optim.momentum=0.8", fingerprint="another")
    notes = held(a, b).notes
    assert "the recipes differ: optim.momentum is 0.9 in a and 0.8 in b" in notes
    assert "the recipes differ: train.seed is 1 in a and 0 in b" in notes
    assert any("fingerprints" in note for note in notes)
    assert len(notes) == 3


def test_devices_that_differ_in_kind_are_named_and_their_numbers_are_not(make_run):
    a, b, c = (
        make_run("precision=fp64", devices=names)
        for names in (["cpu"], ["NVIDIA H100 0"], ["NVIDIA H100 1"])
    )
    (note,) = held(a, b).notes
    assert note.startswith("the devices differ: a CPU (a), NVIDIA H100 (b); ")
    assert not held(b, c).notes


def test_a_run_of_two_recipes_is_told(make_run):
    mixed = make_run("precision=fp64", anyway=["train.seed is 1, was 0"])
    (note,) = held(make_run("precision=fp64"), mixed).notes
    assert note == "b was resumed with run.resume_anyway: train.seed is 1, was 0"


def test_runs_of_another_length_are_refused_with_both(make_run):
    with pytest.raises(RecordError, match="a has 3 steps, b has 2"):
        held(make_run(), make_run(losses=(2.0, 1.5)))


def test_runs_of_other_models_are_refused_with_both_and_the_leaf(make_run):
    other = make_run("experiment=digits_cnn")
    other.weights["conv.0.bias"] = np.zeros(10)
    said = (
        r"^a is of model mlp, b of cnn: parameter conv.0.bias is absent in a and \(10,"
    )
    with pytest.raises(RecordError, match=said):
        held(make_run(), other)


def test_the_step_and_the_leaf_that_part_are_named(make_run):
    other = make_run("precision=fp64", losses=(2.0, 1.6, 1.0), weight=1.1)
    (comparison,) = held(make_run("precision=fp64"), other).comparisons
    assert "the losses differ from step 2 on" in comparison.broken[0]
    assert "dense.0.kernel" in comparison.broken[1]


LONG = np.linspace(2.0, 1.0, 440)


@pytest.mark.parametrize(
    ("step", "precision", "verdict"),
    [
        (100, "fp32", DIFFERENT),
        (101, "fp32", UNDECIDED),
        (213, "fp32", UNDECIDED),
        (1, "bf16", DIFFERENT),
        (2, "bf16", UNDECIDED),
        (213, "fp64", DIFFERENT),
    ],
)
def test_beyond_the_steps_of_its_bound_a_comparison_without_controls_decides_nothing(
    make_run, step, precision, verdict
):
    apart = np.where(np.arange(1, 441) < step, LONG, 1.1 * LONG)
    a = make_run(f"precision={precision}", losses=LONG)
    b = make_run(f"precision={precision}", losses=apart, weight=1.1)
    found = held(a, b)
    assert found.verdict == verdict
    if verdict == UNDECIDED:
        (unseen,) = found.comparisons[0].unseen
        assert f"the losses agree up to step {step - 1} of 440" in unseen
        assert "precision=fp64, or in another precision with controls" in unseen


def test_two_runs_that_keep_to_the_bound_to_the_end_are_identical(make_run):
    apart = np.where(np.arange(440) < 1, LONG, 1.0005 * LONG)
    runs = (make_run("precision=fp32", losses=curve) for curve in (LONG, apart))
    assert held(*runs).verdict == IDENTICAL


def test_weights_that_part_at_the_last_step_of_a_bound_are_different(make_run):
    a, b = (make_run("precision=fp32", losses=LONG[:100], weight=n) for n in (1.0, 1.1))
    assert held(a, b).verdict == DIFFERENT


# Apart as two right runs of digits_cnn were: by rounding for 28 steps, then growing.
GROWING = np.concatenate([np.full(28, 5e-7), np.geomspace(1e-6, 3.2e-3, 72)])


@pytest.mark.parametrize(
    ("apart", "weights", "verdict"),
    [
        (GROWING, 1.6e-3, UNDECIDED),
        (np.minimum(GROWING, 9e-4), 1.6e-3, UNDECIDED),  # the weights alone
        (GROWING, 0.1, DIFFERENT),  # which no loss explains
        (np.minimum(GROWING, 9e-5), 1.6e-3, DIFFERENT),
        (np.where(GROWING > 1e-3, GROWING, 5e-7), 1.6e-3, DIFFERENT),  # at once
        (3.2e-3 * np.linspace(0, 1, 100) ** 2, 1.6e-3, DIFFERENT),  # from the start
        (np.append(2.1e-6, GROWING[1:]), 1.6e-3, DIFFERENT),
        # In a few steps nothing grows, nor from a tenth of them on, as a rule does.
        (GROWING[[0, 28, 40, 60, 80]], 5e-3, DIFFERENT),
        (np.maximum(GROWING, np.arange(100) / 2e6), 1.6e-3, DIFFERENT),
    ],
)
def test_without_controls_what_rounding_may_have_grown_to_is_no_difference(
    make_run, apart, weights, verdict
):
    right = LONG[: len(apart)]
    a = make_run("precision=fp32", losses=right)
    b = make_run("precision=fp32", losses=right * (1 + apart), weight=1 + weights)
    found = held(a, b)
    assert found.verdict == verdict
    if verdict == UNDECIDED:
        (unseen,) = found.comparisons[0].unseen
        assert "precision=fp64, or in another precision with controls" in unseen


def test_in_fp64_growth_is_a_difference(make_run):
    a = make_run("precision=fp64", losses=LONG[:100])
    b = make_run("precision=fp64", losses=LONG[:100] * (1 + 1e-6 * GROWING))
    assert held(a, b).verdict == DIFFERENT


def test_a_loss_scale_that_parts_while_losses_agree_is_a_difference(make_run):
    given = ("precision=fp16",)
    late = make_run(*given, losses=LONG, scales=[8.0] * 6 + [4.0] * 434)
    right = make_run(*given, losses=LONG, scales=[8.0] * 440)
    assert held(right, late).comparisons[0].broken == [
        "the loss scale differs at step 7: 8 and 4"
    ]


def test_in_fp32_a_bias_that_rounding_may_have_moved_is_a_doubt_and_no_verdict(
    make_run,
):
    def pair(*given, bias, other):
        return [make_run("precision=fp32", *given, bias=n) for n in (bias, other)]

    found = held(*pair(bias=1e-7, other=0.0))
    assert found.verdict == UNDECIDED
    assert "dense.0.bias differ by as much" in found.comparisons[0].unseen[0]
    # Not where it has moved further than SGD moves rounding, nor where it has half of
    # the other's value, as by half the learning rate.
    assert held(*pair(bias=0.1, other=0.0)).verdict == DIFFERENT
    adamw = ("optim=adamw", "optim.nesterov=false")
    assert held(*pair(*adamw, bias=0.1, other=0.05)).verdict == DIFFERENT
    assert held(*pair(*adamw, bias=0.1, other=0.0)).verdict == UNDECIDED


def test_replicas_of_other_numbers_are_not_compared(make_run):
    local = "parallel=local_sgd"
    with pytest.raises(RecordError, match="2 replicas, .* 4: .*part of the experiment"):
        held(make_run(local, "devices=2"), make_run(local, "devices=4"))
    same = held(make_run(local, "devices=2"), make_run(local, "devices=2"))
    assert same.verdict == IDENTICAL
    assert not [note for note in same.notes if "recipes" in note]
    # With data parallelism they may be; the notes say how the recipes differ.
    notes = held(make_run(local, "devices=2"), make_run()).notes
    assert [n for n in notes if "parallel.name is local_sgd in a and dp in b" in n]
    notes = held(make_run(local), make_run("parallel=diloco")).notes
    assert [n for n in notes if "parallel.outer.lr is 1.0 in a and 0.7 in b" in n]
