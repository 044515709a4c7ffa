"""Where two traces part, on traces made by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from record.trace import Trace
from report.parity.bounds import DIFFERENT, IDENTICAL
from report.parity.trace import SUSPECTS, compare_traces, pixel_sums


def trace(step=1):
    generator = np.random.default_rng(0)

    def array(*shape):
        return generator.normal(size=shape)

    kernels = {"conv.kernel": array(3, 3, 1, 2), "head.kernel": array(8, 4)}
    features = {"conv": array(5, 2, 2, 2), "head": array(5, 4)}
    batch = {"input": array(5, 2, 2, 1), "labels": np.arange(5.0)}
    return Trace(
        step=step,
        weights=kernels,
        outputs={**batch, **features, "loss": array(1)},
        output_gradients={name: array(*f.shape) for name, f in features.items()},
        gradients={name: array(*k.shape) for name, k in kernels.items()},
        kinds={"conv": "Conv", "head": "Linear"},
    )


AFTER = {"conv.kernel": np.ones((3, 3, 1, 2)), "conv.var": np.ones(2)}


def bent(section, name, by, step=1):
    """A trace one of whose arrays is larger by a fraction."""
    whole = trace(step)
    arrays = dict(getattr(whole, section))
    arrays[name] = arrays[name] * (1 + by)
    return replace(whole, **{section: arrays})


def held(a, b, after=AFTER, controls=(), precision="fp64"):
    return compare_traces(
        (a, AFTER), (b, after), controls, experiment="line", precision=precision
    )


def test_a_step_is_identical_to_itself():
    verdict = held(trace(), trace())
    assert verdict.verdict == IDENTICAL and verdict.first is None
    assert verdict.suspects == ""


@pytest.mark.parametrize("by", [0.0, np.nan])
def test_gradients_that_are_all_zero_or_overflowed_are_compared(by):
    whole = trace()
    flat = {name: g * by for name, g in whole.gradients.items()}
    flat = replace(whole, gradients=flat)
    assert held(flat, flat).verdict == IDENTICAL
    assert held(flat, whole).verdict == DIFFERENT


@pytest.mark.parametrize(("by", "said"), [(1e-11, IDENTICAL), (1e-9, DIFFERENT)])
def test_a_gradient_in_which_most_terms_cancel_is_judged_by_their_rounding(by, said):
    whole = trace()
    small = whole.gradients | {"conv.kernel": whole.gradients["conv.kernel"] / 100}
    off = small | {"conv.kernel": small["conv.kernel"] * (1 + by)}
    verdict = held(replace(whole, gradients=small), replace(whole, gradients=off))
    assert verdict.verdict == said


@pytest.mark.parametrize(
    ("section", "name", "what", "suspect"),
    [
        ("weights", "head.kernel", "head.kernel before the step", "weights"),
        ("outputs", "input", "the input", "input"),
        ("outputs", "labels", "the labels", "labels"),
        ("outputs", "conv", "the output of conv", "conv"),
        ("outputs", "head", "the output of head", "linear"),
        ("outputs", "loss", "the loss", "loss"),
        ("output_gradients", "head", "the gradient of head's output", "linear"),
        ("gradients", "conv.kernel", "the gradient of conv.kernel", "conv"),
    ],
)
def test_what_parts_is_named_with_its_suspects(section, name, what, suspect):
    verdict = held(trace(), bent(section, name, 1e-9))
    assert verdict.verdict == DIFFERENT
    assert verdict.first.what == what
    assert verdict.suspects.startswith(SUSPECTS[suspect])


def test_the_first_in_the_order_of_the_step_is_named():
    wrong = bent("outputs", "conv", 1e-6)
    wrong = replace(wrong, outputs=wrong.outputs | {"head": np.ones((5, 4))})
    verdict = held(trace(), wrong)
    assert verdict.first.what == "the output of conv"
    assert "everything up to the labels agrees" in verdict.message


def test_an_update_and_a_running_statistic_have_suspects_of_their_own():
    other = held(trace(), trace(), AFTER | {"conv.kernel": np.ones((3, 3, 1, 2)) * 1.1})
    assert other.suspects == SUSPECTS["update"]
    other = held(trace(), trace(), AFTER | {"conv.var": np.ones(2) * 1.1})
    assert other.suspects == SUSPECTS["statistics"]


def test_another_shape_is_as_far_as_can_be():
    wrong = trace()
    wrong = replace(wrong, outputs=wrong.outputs | {"conv": np.ones((5, 4, 4, 2))})
    verdict = held(trace(), wrong)
    assert verdict.first.value == np.inf
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert json.loads(text)["first"]["layer"] == "conv"


@pytest.mark.parametrize(("step", "by"), [(1, 1e-12), (2, 1e-10)])
def test_fp64_bounds_are_those_of_a_first_and_of_any_step(step, by):
    for factor, verdict in ((0.9, IDENTICAL), (1.1, DIFFERENT)):
        wrong = bent("outputs", "conv", by * factor, step)
        assert held(trace(step), wrong).verdict == verdict


def test_fp32_is_bound_by_ten_times_its_controls_so_far():
    control = ((bent("outputs", "conv", 1e-5), AFTER), (trace(), AFTER))
    for name, by, verdict in (
        ("input", 1e-5, DIFFERENT),  # before the controls have parted
        ("conv", 0.9e-4, IDENTICAL),
        ("conv", 1.1e-4, DIFFERENT),
        ("head", 0.9e-4, IDENTICAL),
    ):
        wrong = bent("outputs", name, by)
        found = held(trace(), wrong, controls=[control], precision="fp32")
        assert found.verdict == verdict, name


def test_a_gradient_of_nothing_but_rounding_does_not_part():
    zero = {"conv.kernel": np.full((3, 3, 1, 2), 1e-18)}
    a, b = trace(), trace()
    a = replace(a, gradients=a.gradients | zero)
    b = replace(b, gradients=b.gradients | {"conv.kernel": -zero["conv.kernel"]})
    assert held(a, b).verdict == IDENTICAL


def test_a_gradient_may_fall_on_another_of_equal_pixels_but_not_on_another_channel():
    a = trace()
    moved = {"conv": a.output_gradients["conv"][:, ::-1]}
    assert held(a, replace(a, output_gradients=moved)).verdict == IDENTICAL
    moved = {"conv": a.output_gradients["conv"][..., ::-1]}
    assert held(a, replace(a, output_gradients=moved)).verdict == DIFFERENT
    assert pixel_sums(np.ones((5, 2, 2, 3))).shape == (5, 3)


def test_a_module_of_one_twin_alone_is_told_and_not_compared():
    b = trace()
    extra = replace(b, kinds=b.kinds | {"identity": "Identity"})
    verdict = held(b, extra)
    assert verdict.alone == ["identity (Identity)"] and verdict.verdict == IDENTICAL


def test_a_gradient_that_overflows_in_both_twins_hides_no_other():
    def overflowing(head):
        whole = trace()
        stem = np.full((3, 3, 1, 2), np.inf)
        gradients = {"conv.kernel": stem, "head.kernel": np.full((8, 4), head)}
        return replace(whole, gradients=gradients)

    assert held(overflowing(1.0), overflowing(1.0)).verdict == IDENTICAL
    verdict = held(overflowing(1.0), overflowing(5.0), precision="fp16")
    assert verdict.first.what == "the gradient of head.kernel"
    assert verdict.first.value == pytest.approx(0.8)
    finite = replace(
        trace(), gradients=trace().gradients | {"head.kernel": np.ones((8, 4))}
    )
    assert held(overflowing(1.0), finite, precision="fp16").first.value == np.inf


def test_a_parameter_of_one_twin_alone_parts_before_the_step():
    whole = trace()
    more = replace(whole, weights=whole.weights | {"conv.bias": np.zeros(2)})
    for pair in (whole, more), (more, whole):
        verdict = held(*pair)
        assert verdict.first.what == "conv.bias, which one twin alone has"
        assert verdict.alone == ["conv.bias"]


def with_bias(value, gradient, step=2):
    """A trace with a bias, and the weights after its step."""
    bias = {"conv.bias": np.full(2, value)}
    whole = trace(step)
    return (
        replace(
            whole,
            weights=whole.weights | bias,
            gradients=whole.gradients | {"conv.bias": np.full(2, gradient)},
        ),
        AFTER | {"conv.bias": np.full(2, 2 * value)},
    )


def compared(a, b, controls=(), precision="fp64"):
    given = {"experiment": "line", "precision": precision, "reach": 1e-12}
    return compare_traces(a, b, controls, **given)


def test_a_weight_that_rounding_alone_moves_is_named_and_does_not_part():
    verdict = compared(with_bias(1e-15, 1e-17), with_bias(-2e-15, -3e-17))
    assert verdict.verdict == IDENTICAL and verdict.wandering == ["conv.bias"]
    assert json.loads(json.dumps(verdict.to_json()))["wandering"] == ["conv.bias"]


@pytest.mark.parametrize(
    ("value", "gradient", "what"),
    [
        (1e-9, 1e-17, "conv.bias before the step"),  # beyond the reach of rounding
        (1e-15, 1.0, "the gradient of conv.bias"),  # of one twin alone
    ],
)
def test_a_weight_with_a_gradient_or_a_past_of_its_own_parts(value, gradient, what):
    verdict = compared(with_bias(1e-15, 1e-17), with_bias(value, gradient))
    assert verdict.wandering == [] and verdict.first.what == what


def test_what_rounding_alone_moves_in_the_controls_hides_no_later_difference():
    right = with_bias(1e-8, 1e-9)
    perturbed = with_bias(-1e-8, -1e-9)
    whole, after = perturbed
    wrong = replace(
        whole, outputs=whole.outputs | {"head": whole.outputs["head"] * 1.1}
    )
    given = {"controls": [(perturbed, right)], "precision": "fp32"}
    assert compared(right, perturbed, **given).verdict == IDENTICAL
    found = compared(right, (wrong, after), **given)
    assert found.wandering == ["conv.bias"]
    assert found.first.what == "the output of head"


def test_what_one_twin_alone_has_comes_before_weights_that_differ():
    a, b = trace(), bent("weights", "conv.kernel", 1e-3)
    more = replace(b, weights=b.weights | {"z.bias": np.zeros(2)})
    assert held(a, more).first.what == "z.bias, which one twin alone has"


def test_dropout_in_one_twin_alone_is_suspected_first():
    a, b = trace(), bent("outputs", "head", 0.5)
    a = replace(a, kinds=a.kinds | {"drop": "Dropout"})
    verdict = held(a, b)
    assert verdict.suspects.startswith("dropout in one twin alone: drop (Dropout);")
    both = replace(b, kinds=b.kinds | {"drop": "Dropout"})
    assert "in one twin alone" not in held(a, both).suspects
