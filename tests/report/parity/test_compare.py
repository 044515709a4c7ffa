"""The verdict on records made by hand, where every difference is known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from recipe.errors import RecordError
from recipe.loss_scale import LossScale, next_loss_scale
from recipe.training import LossScaleConfig
from record.run import Run
from report.parity.bounds import (
    ALIKE,
    BOUNDS,
    DIFFERENT,
    ENVELOPE,
    IDENTICAL,
    UNDECIDED,
)
from report.parity.compare import compare
from report.parity.differences import (
    Envelope,
    envelope,
    leaf_differences,
    relative_difference,
)
from report.parity.verdict import Verdict

STEPS = 120
CONFUSION = np.eye(10, dtype=int).tolist()  # ten examples of ten classes
SCORES = {"torch": np.array([0.90, 0.91, 0.92]), "jax": np.array([0.91, 0.91, 0.92])}


def config_of(precision, optim):
    """What a verdict reads of a config: SGD's moves of rounding are 1e-13 in fp64."""
    return SimpleNamespace(
        precision=SimpleNamespace(name=precision),
        optim=SimpleNamespace(
            name=optim, momentum=0.9, clip_norm=None, eps=1e-8, lr_factors=None
        ),
        model=SimpleNamespace(name="mlp", weights=None),
        train=SimpleNamespace(global_batch_size=16, freeze=[]),
        data=SimpleNamespace(image_shape=[8, 8, 1]),
        parallel=SimpleNamespace(name="dp"),
    )


@pytest.fixture
def make_run(tmp_path):
    def make(
        precision="fp64",
        *,
        optim="sgd",
        framework="torch",
        losses=None,
        scales=None,
        weights=None,
        test=1.0,
        accuracy=0.91,
        **summary,
    ):
        curve = np.linspace(2.0, 1.0, STEPS) if losses is None else losses
        scales = [1.0] * len(curve) if scales is None else scales
        rows = [
            {
                **{"kind": "step", "loss": float(loss), "loss_scale": scale},
                **{"grad_norm": 1.0, "learning_rate": 1e-3},
            }
            for loss, scale in zip(curve, scales, strict=True)
        ]
        end = {"a.kernel": np.ones((2, 3)), "b.bias": np.full(3, 0.5)}
        return Run(
            path=tmp_path,
            config=config_of(precision, optim),
            environment={},
            summary={
                "framework": framework,
                "world_size": 1,
                "config_hash": "recipe",
                "data_fingerprint": "data",
                "test": {
                    "loss": test,
                    "accuracy": accuracy,
                    "confusion": np.eye(10, dtype=int).tolist(),
                },
                **summary,
            },
            rows=rows,
            weights={**end, **(weights or {})},
        )

    return make


@pytest.fixture
def control():
    """Controls that part a little at step 11, and by 1e-5 from step 51 on."""
    curve = np.zeros(STEPS)
    curve[10:50], curve[50:] = 1e-7, 1e-5
    return Envelope(curve, {"a.kernel": 1e-6, "b.bias": 0.0}, SCORES, 1000, 0.1)


def held(a, b, control=None):
    return compare(("a", a), ("b", b), "frameworks", control)


def bent(step, by):
    """A curve that differs at one step, from 1."""
    curve = np.linspace(2.0, 1.0, STEPS)
    curve[step - 1] *= 1 + by
    return curve


def loss_scales(interval):
    """Of a run whose seventh step overflows."""
    config = LossScaleConfig(initial=8, interval=interval)
    scale, seen = LossScale(8.0, 0), []
    for step in range(1, STEPS + 1):
        seen.append(scale.value)
        scale = next_loss_scale(config, scale, step != 7)
    return seen


def test_a_loss_scale_that_grows_one_step_late_is_named_at_that_step(make_run, control):
    right, late = (make_run("fp16", scales=loss_scales(n)) for n in (5, 6))
    assert held(right, right, control).verdict == IDENTICAL
    told = held(right, late, control).broken
    assert told == ["the loss scale differs at step 6: 16 and 8"]


def test_loss_scales_are_not_compared_once_the_trajectory_is_lost(make_run, control):
    lost = Envelope(np.full(STEPS, 0.5), control.leaves, SCORES, 1000, 0.1)
    right, late = (make_run("fp16", scales=loss_scales(n)) for n in (5, 6))
    assert held(right, late, lost).verdict == IDENTICAL  # losses agree to the end
    other = make_run("fp16", scales=loss_scales(6), losses=bent(60, 0.5))
    assert held(right, other, lost).verdict == ALIKE


def test_a_run_is_identical_to_itself(make_run, control):
    assert held(make_run(), make_run()).verdict == IDENTICAL
    assert held(make_run("fp32"), make_run("fp32"), control).verdict == IDENTICAL


@pytest.mark.parametrize(
    ("step", "by", "verdict"),
    [
        (1, 0.9e-12, IDENTICAL),
        (1, 1.1e-12, DIFFERENT),
        (2, 0.9e-10, IDENTICAL),
        (2, 1.1e-10, DIFFERENT),
        (STEPS, 1.1e-10, DIFFERENT),
    ],
)
def test_fp64_bounds_are_those_of_the_contract(make_run, step, by, verdict):
    result = held(make_run(), make_run(losses=bent(step, by)))
    assert result.verdict == verdict
    if result.broken:
        assert f"the losses differ from step {step} on:" in result.broken[0]


@pytest.mark.parametrize(
    ("step", "by", "verdict"),
    [
        (1, 1.9e-6, IDENTICAL),
        (1, 2.1e-6, DIFFERENT),
        (20, 1.9e-6, IDENTICAL),  # ten times the controls' 1e-7 is less than rounding
        (20, 2.1e-6, DIFFERENT),
        (60, 0.9e-4, IDENTICAL),
        (60, 1.1e-4, DIFFERENT),
    ],
)
def test_fp32_is_bound_by_ten_times_its_controls(make_run, control, step, by, verdict):
    a, b = make_run("fp32"), make_run("fp32", losses=bent(step, by))
    assert held(a, b, control).verdict == verdict


def test_a_thousandth_is_too_much_while_the_controls_keep_to_it(make_run):
    tame = Envelope(
        np.full(STEPS, 9e-4), {"a.kernel": 9e-4, "b.bias": 9e-4}, SCORES, 9, 0.1
    )
    for step, broken in ((100, True), (101, False)):  # it holds for a hundred steps
        a, b = make_run("fp32"), make_run("fp32", losses=bent(step, 1.1e-3))
        assert bool(held(a, b, tame).broken) == broken


def test_beyond_it_themselves_the_controls_alone_bound_a_step(make_run):
    curve = np.where(np.arange(1, STEPS + 1) < 50, 1e-4, 2e-3)
    wild = Envelope(curve, {"a.kernel": 2e-3, "b.bias": 2e-3}, SCORES, 9, 0.1)
    for step, by, broken in (
        (49, 1.1e-3, True),
        (50, 1.1e-3, False),
        (50, 2.1e-2, True),
    ):
        a, b = make_run("fp32"), make_run("fp32", losses=bent(step, by))
        assert bool(held(a, b, wild).broken) == broken
    verdict = Verdict("line", "fp32", "r", "d", [held(a, b, wild)], wild)
    assert "up to step 49" in verdict.decided_by


def test_lost_controls_leave_the_judgement_to_accuracy(make_run):
    curve = np.where(np.arange(1, STEPS + 1) < 60, 1e-4, 0.2)
    lost = Envelope(curve, {"a.kernel": 0.2, "b.bias": 0.2}, SCORES, 1000, 0.1)
    low, high = lost.score_interval("torch")
    # Student's t for two degrees of freedom, 9.925, times .01, times sqrt(4/3).
    assert (low, high) == pytest.approx((0.91 - 0.1146, 0.91 + 0.1146), abs=1e-4)
    wild = bent(60, 0.5)
    apart = {"a.kernel": np.full((2, 3), 9.0)}
    for accuracy, broken in ((0.80, False), (0.79, True), (0.1, True)):
        other = make_run("fp32", losses=wild, weights=apart, accuracy=accuracy)
        result = held(make_run("fp32"), other, lost)
        assert bool(result.broken) == broken, result.broken
    verdict = Verdict("line", "fp32", "r", "d", [result], lost)
    assert "from step 60 on" in verdict.decided_by
    before = make_run("fp32", losses=bent(59, 0.5))
    assert "from step 59 on" in held(make_run("fp32"), before, lost).broken[0]


def test_runs_that_keep_to_the_fixed_bound_need_no_accuracy(make_run):
    curve = np.where(np.arange(1, STEPS + 1) < 60, 1e-4, 0.2)
    lost = Envelope(curve, {"a.kernel": 0.2, "b.bias": 0.2}, SCORES, 1000, 0.1)
    found = held(make_run("fp32"), make_run("fp32", losses=bent(70, 9e-4)), lost)
    assert found.verdict == IDENTICAL
    verdict = Verdict("line", "fp32", "r", "d", [found], lost)
    assert verdict.decided_by.startswith("fixed bounds (1e-03) to the end and 10 x")


@pytest.mark.parametrize("controls", [1, 2, 4, 20])
def test_frameworks_that_are_apart_do_not_widen_the_interval_between_them(
    make_run, controls
):
    def runs(framework, level):
        curves = [np.linspace(2.0, 1.0, STEPS), bent(60, 0.5)]
        curves = curves[:: -1 if framework == "jax" else 1]  # so that these are apart
        scores = level + np.linspace(-0.002, 0.002, controls + 1)
        return [
            make_run("fp32", framework=framework, losses=curves[n > 0], accuracy=value)
            for n, value in enumerate(scores)
        ]

    torch, jax = runs("torch", 0.97), runs("jax", 0.10)
    pairs = [(run, own[0]) for own in (torch, jax) for run in own[1:]]
    found = held(torch[0], jax[0], envelope(pairs))
    assert found.verdict == DIFFERENT
    assert "the test score of b is 0.0980, outside of torch's" in found.broken[1]
    alike = held(torch[0], torch[1], envelope(pairs))
    assert alike.verdict == ALIKE


def test_an_interval_that_covers_chance_decides_nothing(make_run):
    wide = {"torch": np.array([0.2, 0.9])}
    lost = Envelope(np.full(STEPS, 0.2), {"a.kernel": 0.2, "b.bias": 0.2}, wide, 9, 0.1)
    found = held(make_run("fp32"), make_run("fp32", losses=bent(60, 0.5)), lost)
    assert found.verdict == UNDECIDED
    assert "cannot be distinguished from chance by torch's controls" in found.unseen[0]
    assert Verdict("line", "fp32", "r", "d", [found], lost).verdict == UNDECIDED


def test_sixteen_bits_are_bound_by_their_first_step_and_their_controls(make_run):
    for level, step, by, broken in (
        (0.0, 1, 1.9e-2, False),
        (0.0, 1, 2.1e-2, True),
        (0.5, 1, 2.1e-2, True),  # though the controls have lost it at once
        (4e-3, 9, 3.9e-2, False),
        (4e-3, 9, 4.3e-2, True),
    ):
        leaves = {"a.kernel": level, "b.bias": level}
        control = Envelope(np.full(STEPS, level), leaves, SCORES, 9, 0.1)
        result = held(
            make_run("bf16"), make_run("bf16", losses=bent(step, by)), control
        )
        assert bool(result.broken) == broken, (level, step, by)
        verdict = Verdict("line", "bf16", "r", "d", [result], control)
        assert verdict.decided_by.startswith("a first step within 2e-02 and 10 x")


def test_equal_controls_still_allow_one_example():
    control = Envelope(np.zeros(1), {}, {"torch": np.full(5, 0.5)}, 100, 0.1)
    assert control.score_interval("torch") == pytest.approx((0.49, 0.51))


def test_fp32_without_controls_is_refused(make_run):
    with pytest.raises(ValueError, match="controls"):
        held(make_run("fp32"), make_run("fp32"))


def test_the_largest_leaf_is_named(make_run):
    other = make_run(weights={"b.bias": np.array([0.5, 0.5, 0.5 + 1e-8])})
    (broken,) = held(make_run(), other).broken
    assert "b.bias" in broken and "2.00e-08" in broken


SMALL = np.array([1.0, -1.0, 0.5]) * 1e-15  # what rounding leaves of a bias in fp64


@pytest.mark.parametrize(("optim", "grown"), [("sgd", 1), ("adamw", 1e6)])
def test_in_fp64_a_bias_that_rounding_alone_moved_is_named_and_not_held(
    make_run, optim, grown
):
    def ended(bias):
        weights = {"b.bias": bias * grown, "n.mean": 1 + bias * grown}
        return make_run(optim=optim, weights=weights)

    found = held(ended(SMALL), ended(-SMALL / 3))
    assert found.verdict == IDENTICAL
    assert found.wandering["b.bias"] == pytest.approx(4 / 3)
    assert "b.bias" not in found.leaves
    # A mean goes with it; where the bias is alike, it is held to its bound.
    assert ("n.mean" in found.wandering) == (grown > 1)
    verdict = Verdict("line", "fp64", "r", "d", [found], None)
    assert "no gradient beyond rounding: b.bias" in verdict.set_apart[0]
    json.dumps(verdict.to_json(), allow_nan=False)


@pytest.mark.parametrize("one_alone", [False, True])
def test_a_bias_beyond_the_reach_of_rounding_is_held_though_it_is_small(
    make_run, one_alone
):
    a = make_run(weights={"b.bias": SMALL * 1e6})
    b = make_run(weights={"b.bias": SMALL if one_alone else SMALL * 1.1e6})
    found = held(a, b)
    assert found.verdict == DIFFERENT
    assert "most at b.bias" in found.broken[0]


def test_a_mean_further_apart_than_wandering_biases_is_held(make_run):
    a = make_run(weights={"b.bias": SMALL, "n.mean": np.ones(3)})
    b = make_run(weights={"b.bias": -SMALL, "n.mean": np.ones(3) + 1e-9})
    found = held(a, b)
    assert found.verdict == DIFFERENT and list(found.wandering) == ["b.bias"]


def test_in_fp32_controls_tell_the_bias_that_rounding_alone_moved(make_run, control):
    def held_with(apart, bias, precision="fp32"):
        leaves = {"a.kernel": 1e-6, "b.bias": apart}
        lone = Envelope(control.losses, leaves, SCORES, 1000, 0.1)
        a = make_run(precision, weights={"b.bias": np.array([1e-7, 2e-7, 0.0])})
        return held(a, make_run(precision, weights={"b.bias": bias}), lone)

    other = np.array([-3e-7, 0.0, 1e-7])
    assert held_with(1.2, other).verdict == IDENTICAL
    assert list(held_with(1.2, other).wandering) == ["b.bias"]
    assert held_with(0.01, other).verdict == DIFFERENT  # more than ten times as much
    assert held_with(1e-5, other).verdict == DIFFERENT


def test_a_leaf_keeps_to_a_thousandth_for_as_long_as_its_controls_do(make_run, control):
    curve = np.linspace(2.0, 1.0, 100)
    a = make_run("fp32", losses=curve)
    for apart, by, verdict in (
        (9e-5, 1.1e-3, DIFFERENT),
        (9e-4, 1.1e-3, UNDECIDED),  # nothing tells that from rounding
        (1.1e-3, 1e-2, IDENTICAL),
    ):
        leaves = {"a.kernel": apart, "b.bias": 1e-6}
        lone = Envelope(control.losses[:100], leaves, SCORES, 1000, 0.1)
        bent_kernel = {"a.kernel": np.ones((2, 3)) * (1 + by)}
        b = make_run("fp32", losses=curve, weights=bent_kernel)
        assert held(a, b, lone).verdict == verdict


def test_a_difference_beside_what_rounding_moved_is_still_caught(make_run):
    a, b = (make_run(weights={"c.bias": sign * SMALL}) for sign in (1, -1))
    bent_b = make_run(weights={"c.bias": -SMALL, "b.bias": np.full(3, 0.5 + 1e-9)})
    assert held(a, b).verdict == IDENTICAL
    assert "most at b.bias" in held(a, bent_b).broken[0]


def test_a_test_loss_that_parts_breaks_the_verdict(make_run):
    (broken,) = held(make_run(), make_run(test=1 + 1e-9)).broken
    assert "test loss" in broken


def test_nan_is_different_from_any_number_and_the_same_as_itself(make_run):
    curve = np.full(STEPS, np.nan)
    assert held(make_run(), make_run(losses=curve)).verdict == DIFFERENT
    a, b = make_run(losses=curve), make_run(losses=curve)
    assert held(a, b).verdict == IDENTICAL


@pytest.mark.parametrize("key", ["config_hash", "data_fingerprint"])
def test_runs_of_different_recipes_or_data_are_not_compared(make_run, key):
    with pytest.raises(RecordError, match=key):
        held(make_run(), make_run(**{key: "another"}))


def test_runs_of_different_length_are_not_compared(make_run):
    with pytest.raises(RecordError, match="119"):
        held(make_run(), make_run(losses=np.ones(STEPS - 1)))


def test_weights_of_another_shape_are_named(make_run):
    other = make_run(weights={"a.kernel": np.ones((3, 2))})
    with pytest.raises(RecordError, match=r"a\.kernel"):
        held(make_run(), other)


def test_the_envelope_is_the_largest_control_so_far(make_run):
    original = make_run()
    pairs = [(make_run(losses=bent(s, by)), original) for s, by in ((3, 0.1), (9, 0.2))]
    curve = envelope(pairs).losses
    assert curve[:2].max() == 0
    np.testing.assert_allclose(curve[2:8], 0.1 / 1.1)
    np.testing.assert_allclose(curve[8:], 0.2 / 1.2)


def test_relative_difference_is_symmetric_and_has_no_holes():
    a = np.array([0.0, 0.0, 1.0, -1.0, np.inf, np.nan])
    b = np.array([0.0, 1.0, 1.5, 1.0, np.inf, 1.0])
    expected = [0.0, 1.0, 1 / 3, 2.0, 0.0, np.inf]
    np.testing.assert_allclose(relative_difference(a, b), expected)
    np.testing.assert_allclose(relative_difference(b, a), expected)


def test_an_average_that_one_run_alone_keeps_is_skipped():
    plain, w = {"w": np.ones(2)}, np.zeros(2)
    both = plain | {"average of w": w}
    assert leaf_differences(plain, both) == leaf_differences(both, plain) == {"w": 0.0}
    assert leaf_differences(both, both | {"average of w": w + 1})["average of w"] == 1
    with pytest.raises(RecordError, match="parameter v is absent in a"):
        leaf_differences(plain, both | {"v": w})


def test_leaf_differences_are_of_the_largest_value():
    a = {"w": np.array([1e-9, 4.0])}
    b = {"w": np.array([2e-9, 4.0])}
    assert leaf_differences(a, b)["w"] == pytest.approx(0.25e-9, rel=1e-6)


def test_the_verdict_is_strict_json_whatever_the_numbers(make_run):
    broken = held(make_run(), make_run(losses=np.full(STEPS, np.nan)))
    verdict = Verdict("line", "fp64", "recipe", "data", [broken], None)
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert json.loads(text)["verdict"] == DIFFERENT


def test_the_bounds_are_those_documented(root):
    contract = (root / "docs" / "identity.md").read_text()
    for bounds in BOUNDS.values():
        for bound in (bounds.first, bounds.hundred):
            if np.isinf(bound):  # the controls alone
                continue
            mantissa, exponent = f"{bound:.0e}".split("e")
            assert f"{mantissa}e{int(exponent)}" in contract
    assert f"{ENVELOPE:.0f} ×" in contract
