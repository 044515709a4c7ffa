"""What cannot be judged: differences that rounding alone may have made.

A doubt is a sentence that says so, and how to decide. There are three ways to one:
parameters that no gradient moves, or hardly any; parameters that controls take as far;
and differences that grew from rounding after the steps that fixed bounds are for.
"""

import numpy as np

from record.run import Run
from report.parity.bounds import BOUNDS, ENVELOPE, HUNDRED, looser
from report.parity.differences import Envelope
from report.parity.rounding import taken, wandering
from report.parity.verdict import Comparison

DECIDE = (
    "To decide, train both again with launch/parity.py for 100 steps: in "
    "precision=fp64, or in another precision with controls"
)
# Steps in which every rule of an update has shown: by its first, momentum, correction.
FEW = 5


def excuse_leaves(
    comparison: Comparison, a: Run, b: Run, control: Envelope | None
) -> list[str]:
    """Exempt the leaves that rounding alone may have moved from their bounds.

    With evidence they are moved to `wandering`, and are not in doubt. With controls, in
    doubt are those beyond the bound for a hundred steps but within what the controls
    allow, which nearly reach that bound themselves.

    Returns:
      The doubt about the others.
    """
    leaves, allowed = comparison.leaves, comparison.leaves_allowed
    doubted = _set_wandering_apart(comparison, a, b, control)
    doubt = (
        f"{', '.join(doubted)} differ by as much as their own size while all losses "
        "agree, as happens where a gradient is nothing but rounding"
    )
    if control is not None:
        moved = control.leaves
        doubted = [n for n in leaves if allowed[n] < leaves[n] <= ENVELOPE * moved[n]]
        doubt = "; ".join(
            f"{n} differs by {leaves[n]:.2e}, {allowed[n]:.2e} allowed, while rounding "
            f"moved its controls by {moved[n]:.2e}"
            for n in doubted
        )
    allowed.update(dict.fromkeys(doubted, np.inf))
    return [f"{doubt}. {DECIDE}"] if doubted else []


def excuse_growth(
    comparison: Comparison, broken: list[str], covered: int | None
) -> list[str]:
    """The doubt about broken bounds that rounding may have grown beyond.

    Args:
      covered: steps that the bounds are for, which judge no later one; None: all.
    """
    if covered is None:
        return []
    agreed, steps = agreed_steps(comparison), len(comparison.differences)
    why = "; ".join(broken)
    if covered <= agreed and covered < steps:
        return [
            f"the losses agree up to step {agreed} of {steps}, the bounds are for "
            f"{covered}. After that {why}: rounding may have grown this far. {DECIDE}"
        ]
    if covered == HUNDRED and _grown_by_rounding(comparison, agreed):
        return [
            f"{why}. But at first the losses agreed to rounding, and they diverged "
            "gradually, as those of one framework may when perturbed by one ulp. "
            f"{DECIDE}"
        ]
    return []


def agreed_steps(comparison: Comparison) -> int:
    """The last step up to which all losses are within what is allowed."""
    above = np.greater(comparison.differences, comparison.allowed)
    return int(np.argmax(above)) if above.any() else len(above)


def _set_wandering_apart(
    comparison: Comparison, a: Run, b: Run, control: Envelope | None
) -> list[str]:
    """Move parameters that only rounding moved to `wandering`.

    Returns:
      Those suspected of it without evidence.
    """
    leaves, allowed = comparison.leaves, comparison.leaves_allowed
    precision = looser(*(run.config.precision.name for run in (a, b)))
    fixed = BOUNDS[precision].hundred
    beyond = [n for n, value in leaves.items() if value > min(allowed[n], fixed)]
    if not beyond:
        return []
    controls = None if control is None else control.leaves
    if control is not None and not control.losses[-1] <= fixed < np.inf:
        controls = {}  # rounding has grown in all of the model
    biases, evident = wandering(a, b, controls, precision)
    moved = [n for n in beyond if leaves[n] <= taken(n, a.weights, b.weights, biases)]
    if not evident:
        return moved
    comparison.wandering.update({name: leaves.pop(name) for name in moved})
    return []


def _grown_by_rounding(comparison: Comparison, agreed: int) -> bool:
    """Whether two runs may have broken fp32's fixed bounds by rounding alone.

    Another rule makes losses differ from the first steps on, then by about the square
    of the steps at most; another batch or image makes them differ at once. Rounding
    that ReLUs and poolings amplify does neither: at a tenth of the steps the losses are
    within a first step's bound still, five hundred times below the one they break, and
    no step makes it a hundred times what it was. The weights are then not ten times as
    far apart as the losses.
    """
    if agreed <= FEW:
        return False
    ulp = float(np.finfo(np.float32).eps)
    grown = np.maximum.accumulate([ulp, *comparison.differences])  # from step 0 on
    most = ENVELOPE * grown[-1]
    return bool(
        grown[max(agreed // 10, FEW)] <= BOUNDS["fp32"].first
        and (grown[1:] <= 100 * grown[:-1]).all()
        and max(comparison.test_difference, *comparison.leaves.values()) <= most
    )
