"""Precisions, loss scaling and accumulation of both twins."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_impl.precision
import torch_impl.precision
from jax_impl import step as jax_step
from recipe.errors import ConfigError
from recipe.loss_scale import FP32_MAX, LossScale, next_loss_scale
from recipe.training import LossScaleConfig
from report.parity.bounds import DIFFERENT
from report.parity.compare import compare
from report.parity.differences import (
    envelope,
    leaf_differences,
    relative_difference,
)
from tests.twins.steps import EXAMPLES, random_weights, record
from torch_impl import step as torch_step

TWINS = pytest.mark.parametrize("twin", [0, 1], ids=["torch", "jax"])
SCALER = LossScaleConfig(initial=8, interval=5)
OVERFLOW = 7  # the step, from 0, whose gradient is more than fp16 holds
OUTLIER = EXAMPLES - 1  # the example that makes it so


def torchs_trace(config, finite):
    """The scale before each step, and after the last, of torch's own scaler."""
    scaler = torch.amp.GradScaler(
        "cpu", config.initial, config.growth, config.backoff, config.interval
    )
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter])
    scaler.scale(parameter)
    trace = [scaler.get_scale()]
    for good in finite:
        parameter.grad = torch.tensor([0.0 if good else torch.inf])
        scaler.step(optimizer)
        scaler.update()
        trace.append(scaler.get_scale())
    return trace


KINDS = {
    "numpy": (np.float32, np.int32, bool),
    "torch": (torch.tensor, torch.tensor, torch.tensor, torch.where),
    "jax": (jnp.float32, jnp.int32, jnp.bool, jnp.where),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [
        SCALER,
        LossScaleConfig(initial=1, interval=1),
        LossScaleConfig(initial=2.0**125, interval=2),  # to the end of fp32's range
        LossScaleConfig(initial=8, growth=4, backoff=0.25, interval=3),
    ],
    ids=str,
)
def test_the_neutral_scale_moves_as_torchs_own(config, kind):
    number, count, flag, *where = KINDS[kind]
    finite = np.random.default_rng(0).random(60) > 0.15
    scale, trace = LossScale(number(config.initial), count(0)), []
    for good in finite:
        trace.append(float(scale.value))
        scale = next_loss_scale(config, scale, flag(bool(good)), *where)
    assert [*trace, float(scale.value)] == torchs_trace(config, finite)
    assert max(trace) <= FP32_MAX


@pytest.fixture
def scaled_by(make_config, twins, arrays):
    """Twins of an fp16 regression in which one example's label is a million."""

    def scaled_by(optimizer):
        config = make_config(
            *("experiment=linear_line", "precision=fp16"),
            *("precision.loss_scale.initial=8", "precision.loss_scale.interval=5"),
            optimizer,
        )
        images, labels = arrays(config)
        labels[OUTLIER] = 1e6
        weights = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
        return twins(config, weights, (images, labels)), weights

    return scaled_by


@pytest.fixture
def scaled(scaled_by):
    return scaled_by("optim.momentum=0.9")


def batches(steps, *overflows):
    rows = np.random.default_rng(2).integers(OUTLIER, size=(steps, 8), dtype=np.int32)
    rows[list(overflows), 3] = OUTLIER
    return rows


@TWINS
def test_the_loss_scale_of_a_run_with_one_overflow_is_torchs(scaled, twin):
    seen, _ = scaled[0][twin](batches(20, OVERFLOW), rate=1e-3)
    finite = [step != OVERFLOW for step in range(20)]
    assert np.isfinite(seen[:, 0]).all()  # the loss; its gradient is what overflows
    assert seen[:, 2].tolist() == torchs_trace(SCALER, finite)[:-1]
    assert (seen[:, 3] == 0).tolist() == finite


@TWINS
def test_a_scaler_that_grows_one_step_late_is_named_at_that_step(
    scaled, twin, make_config, monkeypatch
):
    def late(config, *given):
        return next_loss_scale(replace(config, interval=6), *given)

    monkeypatch.setattr((torch_step, jax_step)[twin], "next_loss_scale", late)
    config = make_config("experiment=linear_line", "precision=fp16")
    test = {"loss": 1.0, "accuracy": None, "confusion": None}
    runs = [
        record(config, *run(batches(20, OVERFLOW), rate=1e-3), test)
        for run in scaled[0]
    ]
    same = envelope([(runs[0], runs[0])])
    found = compare(("torch", runs[0]), ("jax", runs[1]), "frameworks", same)
    assert found.verdict == DIFFERENT
    assert any("the loss scale differs at step 6: " in why for why in found.broken)


@TWINS
@pytest.mark.parametrize("optimizer", ["optim.momentum=0.9", "optim=adamw"])
def test_a_skipped_step_moves_neither_parameters_nor_optimizer_state(
    scaled_by, twin, optimizer
):
    twins, weights = scaled_by(optimizer)
    run = twins[twin]
    _, unmoved = run(batches(1, 0))
    for name, array in weights.items():
        np.testing.assert_array_equal(unmoved[name], array)
    for skipped in 0, 1:  # at the first step there is no state yet
        rows = batches(3, skipped)
        _, with_skip = run(rows, rate=1e-3)
        _, without = run(np.delete(rows, skipped, axis=0), rate=1e-3)
        # Not in every bit: the scale, and so the rounding in fp16, is another.
        assert max(leaf_differences(with_skip, without).values()) <= 1e-6


@TWINS
def test_a_scaled_loss_gives_the_gradient_of_the_loss(make_config, twins, twin):
    config = make_config("experiment=digits_mlp", "precision=fp64")
    weights, rows = random_weights(config), batches(3)
    plain, end = twins(config, weights)[twin](rows)
    config.precision.loss_scale = LossScaleConfig(initial=1024)
    seen, scaled_end = twins(config, weights)[twin](rows)
    np.testing.assert_allclose(seen[:, :2], plain[:, :2], rtol=1e-13)
    assert max(leaf_differences(end, scaled_end).values()) <= 1e-13


ACCUMULATED = ["experiment=digits_cnn", "precision=fp64", "optim.clip_norm=1"]


@TWINS
def test_four_micro_batches_are_one_batch_to_rounding(make_config, twins, twin):
    rows, ends = batches(3), []
    for parts in 1, 4:
        config = make_config(*ACCUMULATED, f"train.grad_accum_steps={parts}")
        ends.append(twins(config, random_weights(config))[twin](rows))
    (one, one_end), (four, four_end) = ends
    assert relative_difference(one, four).max() <= 1e-12
    assert max(leaf_differences(one_end, four_end).values()) <= 1e-12


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_multiply_and_thirty_two_are_kept(precision, make_config, twins):
    seen = {}
    for name in precision, "fp32":
        config = make_config("experiment=digits_cnn", f"precision={name}")
        if config.precision.loss_scale is not None:
            config.precision.loss_scale.initial = 64
        weights = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
        seen[name] = [run(batches(1)) for run in twins(config, weights)]
    for (low, end), (true, _) in zip(seen[precision], seen["fp32"], strict=True):
        assert {array.dtype for array in end.values()} == {np.dtype("float32")}
        difference = relative_difference(low, true)[0, :2]
        assert (difference > 1e-6).any()  # it is not fp32 under another name
        assert (difference <= 2e-2).all()
    (in_torch, _), (in_jax, _) = seen[precision]
    assert relative_difference(in_torch, in_jax).max() <= 2e-2


def test_tf32_is_refused_on_a_cpu(make_config):
    config = make_config("precision=tf32")
    for configure, device in (
        (torch_impl.precision.configure, torch.device("cpu")),
        (jax_impl.precision.configure, jax.devices()[0]),
    ):
        with pytest.raises(ConfigError, match="tf32 is not available on .* Ampe"):
            configure(config, device)


def test_a_cpu_that_lacks_fp16_is_refused_by_torch(make_config, monkeypatch):
    def lacking(*_):
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "conv2d", lacking)
    with pytest.raises(ConfigError, match="precision=fp16 .* not implemented for"):
        torch_impl.precision.configure(
            make_config("precision=fp16"), torch.device("cpu")
        )
