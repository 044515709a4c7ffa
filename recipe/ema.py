"""The exponential moving average of the weights: how far each update moves it."""

import math
from collections.abc import Callable
from typing import Any


def averaging_rate(
    decay: float, updates: Any, expm1: Callable[[Any], Any] = math.expm1
) -> Any:
    """The newest weights' share in the average: (1 - decay) / (1 - decay^updates).

    average += rate (weights - average) is then the average of all weights so far, those
    of k updates ago by decay^k over the sum of these: what begins at zero and decays,
    its bias corrected. What the weights began at has no part in it.

    Args:
      decay: in (0, 1).
      updates: applied so far, the newest included, from 1; in a compiled step an array.
      expm1: e^x - 1 of such a number. By it 1 - decay^updates keeps all its digits,
        in fp32 too.

    Source: optax.ema(decay, debias=True); Kingma and Ba, Adam, ICLR 2015, section 3.

    >>> [round(averaging_rate(0.5, t), 4) for t in (1, 2, 3)]
    [1.0, 0.6667, 0.5714]
    """
    log = math.log(decay)
    return math.expm1(log) / expm1(log * updates)
