"""Optimizer step -> learning rate, a Python float that both frameworks receive."""

import math

from recipe.config import Config


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of one optimizer step.

    Warm-up rises linearly over `schedule.warmup_steps` = w steps, lr = peak (t+1)/w, so
    that the first step already moves and step w-1 is at the peak. Then

      constant: peak
      cosine:   end + (peak - end) (1 + cos(pi (t-w)/(T-w))) / 2,
                where end = peak x `schedule.end_factor`

    Args:
      step: t, from 0.
      steps: T, optimizer steps of the whole run.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017; Goyal et al. 2017 for the warm-up.
    """
    peak, schedule = config.optim.peak_lr, config.schedule
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.name == "constant":
        return peak
    end = peak * schedule.end_factor
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    return end + (peak - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
