"""The learning rate is one formula of the step, the same float for both frameworks."""

import math
from dataclasses import replace

import numpy as np
import pytest

from recipe.batch_plan import BatchPlan
from recipe.errors import ConfigError
from recipe.schedule import learning_rate, learning_rates

PEAK, STEPS, WARMUP = 0.4, 50, 5


@pytest.fixture
def rates(config):
    """`rates("cosine", warmup=5, end=0.1)`: of every step, and of one past the end."""

    def rates(name: str, *, warmup: int = WARMUP, end: float = 0.0) -> np.ndarray:
        recipe = config(
            f"schedule={name}",
            f"schedule.warmup_steps={warmup}",
            f"schedule.end_factor={end}",
            f"optim.peak_lr={PEAK}",
        )
        return np.array([learning_rate(recipe, t, STEPS) for t in range(STEPS + 1)])

    return rates


def closed_form(t: np.ndarray, *, warmup: int, end: float) -> np.ndarray:
    """Cosine after warm-up, as cos^2 of half the angle."""
    fall = np.cos(math.pi / 2 * (t - warmup) / (STEPS - warmup)) ** 2
    return np.where(t < warmup, (t + 1) / max(1, warmup), end + (1 - end) * fall) * PEAK


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_warm_up_rises_evenly_from_above_zero_to_the_peak(rates, name):
    rise = rates(name)[:WARMUP]
    assert rise[0] > 0
    assert np.diff(rise) == pytest.approx(PEAK / WARMUP)
    assert rise[-1] == pytest.approx(PEAK)


def test_constant_stays_at_the_peak(rates):
    assert set(rates("constant")[WARMUP:]) == {PEAK}
    assert set(rates("constant", warmup=0)) == {PEAK}


@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_cosine_falls_from_the_peak_to_its_end(rates, warmup, end):
    fall = rates("cosine", warmup=warmup, end=end)[warmup:]
    assert fall[0] == PEAK
    assert np.all(np.diff(fall) < 0)
    assert fall[-2] == pytest.approx(end * PEAK, abs=0.002 * PEAK)  # the last step
    assert fall[-1] == pytest.approx(end * PEAK, abs=1e-15)


@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_cosine_is_its_closed_form(rates, warmup, end):
    formula = closed_form(np.arange(STEPS + 1), warmup=warmup, end=end)
    assert rates("cosine", warmup=warmup, end=end) == pytest.approx(formula, rel=1e-12)


def test_a_schedule_one_step_late_would_be_noticed(rates):
    late = closed_form(np.arange(STEPS + 1) - 1, warmup=WARMUP, end=0.1)
    assert rates("cosine", end=0.1) != pytest.approx(late, rel=1e-3)


def test_a_run_that_is_all_warm_up_ends_at_the_peak(rates):
    assert rates("cosine", warmup=STEPS)[STEPS - 1 :].tolist() == [PEAK, PEAK]


@pytest.mark.parametrize("steps", [10, 97])
def test_one_cycle_is_torchs(config, steps):
    import torch
    from torch.optim.lr_scheduler import OneCycleLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    start, end = 1 / 25, 1e-3
    schedule = OneCycleLR(
        optimizer,
        PEAK,
        total_steps=steps,
        div_factor=1 / start,
        final_div_factor=start / end,
    )
    expected = [schedule.get_last_lr()[0]]
    for _ in range(steps - 1):
        optimizer.step()
        schedule.step()
        expected.append(schedule.get_last_lr()[0])
    recipe = config(
        *("schedule=one_cycle", f"optim.peak_lr={PEAK}"),
        *(f"schedule.initial_factor={start}", f"schedule.end_factor={end}"),
    )
    found = [learning_rate(recipe, t, steps) for t in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_step_drops_at_its_milestones(config):
    recipe = config(
        *("schedule=step", f"optim.peak_lr={PEAK}", "schedule.warmup_steps=0"),
        "schedule.milestones=[0.5,0.76]",
    )
    found = [learning_rate(recipe, t, STEPS) for t in range(STEPS)]
    expected = np.repeat([PEAK, PEAK / 10, PEAK / 100], [25, 13, 12])
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedule=one_cycle", "schedule.warmup_steps=5"], "warmup_steps=0, got 5"),
        (["schedule=step", "schedule.milestones=[]"], "milestones"),
        (["schedule.milestones=[0.5]"], "only there"),
        (["schedule=step", "schedule.milestones=[1.5]"], "milestones"),
    ],
)
def test_a_schedule_refuses_what_belongs_to_another(config, overrides, words):
    with pytest.raises(ConfigError, match=words):
        config(*overrides)


def test_steps_beyond_the_run_which_are_only_timed_have_the_last_ones_rate(config):
    recipe = config("schedule=cosine", f"optim.peak_lr={PEAK}", "train.steps=50")
    plan = BatchPlan.of(recipe, 1000)
    own = [learning_rate(recipe, t, STEPS) for t in range(STEPS)]
    assert learning_rates(recipe, plan, range(STEPS)) == own
    assert learning_rates(recipe, plan, range(48, 53)) == [*own[48:], *own[-1:] * 3]
    traced = replace(plan, trace=7)  # the last step; the schedule stays the run's
    assert learning_rates(recipe, traced, range(5, 9)) == [own[5], *own[6:7] * 3]
