"""Optimizer step -> learning rate, a Python float that both frameworks receive."""

import math

from recipe.batch_plan import BatchPlan
from recipe.config import Config


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of one optimizer step.

    Warm-up rises linearly over `schedule.warmup_steps` = w steps, lr = peak (t+1)/w, so
    that the first step already moves and step w-1 is at the peak. Then

      constant: peak
      cosine:   end + (peak - end) (1 + cos(pi (t-w)/(T-w))) / 2,
                where end = peak x `schedule.end_factor`
      step:     peak x `schedule.gamma` for each of `schedule.milestones`
                that t/T has reached

    One-cycle has no warm-up of its own: cosines rise from peak x `initial_factor` to
    the peak at step `pct_start` T - 1, and fall to peak x `end_factor` at step T - 1.

    Args:
      step: t, from 0.
      steps: T, optimizer steps of the whole run.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017; Goyal et al. 2017 for the warm-up;
    Smith and Topin, Super-Convergence, 2018, in the form of torch's OneCycleLR.
    """
    peak, schedule = config.optim.peak_lr, config.schedule
    end = peak * schedule.end_factor
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.name == "constant":
        return peak
    if schedule.name == "step":
        reached = sum(step >= share * steps for share in schedule.milestones)
        return peak * schedule.gamma**reached
    if schedule.name == "one_cycle":
        top, last = schedule.pct_start * steps - 1, steps - 1
        if step <= top:
            return _cosine(peak * schedule.initial_factor, peak, step / max(top, 1))
        return _cosine(peak, end, (step - top) / (last - top))
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    return _cosine(peak, end, min(1.0, progress))


def learning_rates(config: Config, plan: BatchPlan, steps: range) -> list[float]:
    """Of optimizer steps; those beyond the run, only timed, have the last one's."""
    last = plan.last - 1
    return [learning_rate(config, min(step, last), plan.steps) for step in steps]


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from start (progress 0) to end (progress 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
