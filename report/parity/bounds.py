"""How far apart two runs may be, by precision, and the words for what was found."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

IDENTICAL, DIFFERENT = "identical", "different"
# Rounding has made the trajectories diverge: test scores alone could be compared.
ALIKE = "not told apart by test score"
PASSES = (IDENTICAL, ALIKE)
UNDECIDED = "undecided"  # no difference, but only since none could be seen

# A run may be this many times further from another than the controls are from their
# originals: a control's first difference is one ulp of the weights, a framework's is
# the order in which every sum of the forward pass is taken.
ENVELOPE = 10.0
HUNDRED = 100  # the steps over which the fixed bounds hold
# Controls this far from their originals have lost the trajectory: ten times as much
# would allow a tenth, and says little. Final accuracy is compared instead.
LOST = 1e-2
CONFIDENCE = 0.99  # of the interval that an accuracy must then lie in


@dataclass(frozen=True)
class Bounds:
    """Largest relative differences allowed in one precision.

    Args:
      first: of the first step's loss.
      hundred: of any of the first 100 steps' losses, and of the final weights.
      controls: whether the controls' envelope also bounds every step. The bound for a
        hundred steps then ends where the controls themselves are beyond it: a network
        whose ReLUs and poolings decide a million times a step meets one near-tie in
        1e-7 every few steps, and falls to another side than its own perturbed double.
    """

    first: float
    hundred: float
    controls: bool


# 1e-10 is a million fp64 roundings, 2e-6 seventeen fp32 ones, 2e-2 some five of bf16.
# Where 8 or 11 bits are multiplied, no bound for a hundred steps is both safe and
# sharp: there the controls, moved by one unit of those bits, judge alone.
BOUNDS = {
    "fp64": Bounds(first=1e-12, hundred=1e-10, controls=False),
    "fp32": Bounds(first=2e-6, hundred=1e-3, controls=True),
    "tf32": Bounds(first=2e-2, hundred=np.inf, controls=True),
    "bf16": Bounds(first=2e-2, hundred=np.inf, controls=True),
    "fp16": Bounds(first=2e-2, hundred=np.inf, controls=True),
}


def fixed_bound_holds(
    control: Float[np.ndarray, " steps"], bounds: Bounds
) -> Bool[np.ndarray, " steps"]:
    """Where the bound for a hundred steps applies beside the controls' envelope.

    >>> fixed_bound_holds(np.array([0, 9e-4, 2e-3, 2e-3]), BOUNDS["fp32"])
    array([ True,  True, False, False])
    """
    return (control <= bounds.hundred) & (np.arange(len(control)) < HUNDRED)


def looser(*precisions: str) -> str:
    """The precision whose bounds allow most.

    >>> looser("fp32", "fp64")
    'fp32'
    """
    return max(precisions, key=lambda name: (BOUNDS[name].first, BOUNDS[name].hundred))


def worst(verdicts: Iterable[str]) -> str:
    """The verdict over several.

    >>> worst(["identical", "undecided", "identical"])
    'undecided'
    """
    severity = {IDENTICAL: 0, ALIKE: 1, UNDECIDED: 2}  # nothing is as bad as another
    return max(verdicts, key=lambda v: severity.get(v, 3), default=IDENTICAL)
