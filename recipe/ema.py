"""The exponential moving average of the weights: how far each update moves it."""

import math
from collections.abc import Callable
from typing import Any


def averaging_rate(
    decay: float, updates: Any, expm1: Callable[[Any], Any] = math.expm1
) -> Any:
    """The newest weights' weight in the average: (1 - decay) / (1 - decay^updates).

    average += rate (weights - average) is then the average of all weights so far, those
    of k updates ago weighted by decay^k: a bias-corrected exponential moving average
    that starts at zero. The initial weights have no influence on it.

    Args:
      decay: in (0, 1).
      updates: applied so far, including the newest, from 1; in a compiled step an
        array.
      expm1: e^x - 1 of such a number. With it 1 - decay^updates keeps all its digits,
        even in fp32.

    Source: optax.ema(decay, debias=True); Kingma and Ba, Adam, ICLR 2015, section 3.

    >>> [round(averaging_rate(0.5, t), 4) for t in (1, 2, 3)]
    [1.0, 0.6667, 0.5714]
    """
    log = math.log(decay)
    return math.expm1(log) / expm1(log * updates)
