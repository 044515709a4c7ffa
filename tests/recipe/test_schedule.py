"""The learning rate is one formula of the step, the same float for both frameworks."""

import math

import numpy as np
import pytest

from recipe.schedule import learning_rate

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


def test_a_schedule_one_step_late_would_be_told_apart(rates):
    late = closed_form(np.arange(STEPS + 1) - 1, warmup=WARMUP, end=0.1)
    assert rates("cosine", end=0.1) != pytest.approx(late, rel=1e-3)


def test_a_run_that_is_all_warm_up_ends_at_the_peak(rates):
    assert rates("cosine", warmup=STEPS)[STEPS - 1 :].tolist() == [PEAK, PEAK]
