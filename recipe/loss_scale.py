"""The dynamic loss scale, which keeps small fp16 gradients from underflowing.

The loss is multiplied by the scale before the backward pass and the gradients divided
by it after. A step whose gradient is not finite is skipped and reduces the scale, which
grows again after an interval of finite steps.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from recipe.config import Config
from recipe.training import LossScaleConfig

FP32_MAX = float(np.finfo(np.float32).max)


class LossScale(NamedTuple):
    """A scale and its history: NumPy scalars, or arrays of shape () in a compiled step.

    Args:
      value: what the next step's loss is multiplied by, fp32.
      finite_steps: steps since it last moved, all with finite gradients, int32.
    """

    value: Any
    finite_steps: Any


def initial_loss_scale(
    config: Config, state: Mapping[str, int | float] | None = None
) -> LossScale | None:
    """The initial scale; None where the precision uses none.

    Args:
      state: of the checkpoint to resume from; empty for a new run.
    """
    if config.precision.loss_scale is None:
        return None
    state = state or {}
    value = state.get("loss_scale", config.precision.loss_scale.initial)
    return LossScale(np.float32(value), np.int32(state.get("finite_steps", 0)))


def loss_scale_state(scale: LossScale | None) -> dict[str, int | float]:
    """What a checkpoint keeps of a scale of NumPy scalars; exact."""
    if scale is None:
        return {}
    steps = int(scale.finite_steps)
    return {"loss_scale": float(scale.value), "finite_steps": steps}


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return yes if condition else no


def next_loss_scale(
    config: LossScaleConfig,
    scale: LossScale,
    finite: Any,
    where: Callable[[Any, Any, Any], Any] = _where,
) -> LossScale:
    """The scale after a step.

    It grows at the `interval`-th finite step in a row, not one later, and never beyond
    fp32.

    Args:
      finite: whether the step's global gradient was; of the same kind as `scale`.
      where: chooses between two numbers; a compiled step can hold no `if`.

    Source: torch.amp.GradScaler; Micikevicius et al., Mixed Precision Training, ICLR
    2018.

    >>> config = LossScaleConfig(initial=8, interval=2)
    >>> next_loss_scale(config, LossScale(8.0, 1), True)
    LossScale(value=16.0, finite_steps=0)
    >>> next_loss_scale(config, LossScale(8.0, 1), False)
    LossScale(value=4.0, finite_steps=0)
    """
    steps = where(finite, scale.finite_steps + 1, 0)
    due = steps == config.interval
    grows = due & (scale.value <= FP32_MAX / config.growth)
    factor = where(grows, config.growth, where(finite, 1.0, config.backoff))
    return LossScale(scale.value * factor, where(due, 0, steps))
