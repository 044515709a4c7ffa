"""Two records -> where they part, and whether that is allowed.

Training amplifies rounding, so in fp32 a fixed tolerance is either blind or wrong. The
question asked here is whether two runs are further apart than a framework is from
itself after its initial weights were moved by one unit in the last place: the controls.
In fp64 there is room enough to do without: a difference there is a bug, not rounding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from recipe.errors import RecordError
from recipe.weights import Weights
from record.run import Run
from record.schema import strict_json
from report.parity.rounding import no_gradient, shift, size, wandering

IDENTICAL, DIFFERENT = "identical", "different"
# Rounding has parted the trajectories, and test scores are all that could be compared.
ALIKE = "not told apart by test score"
PASSES = (IDENTICAL, ALIKE)
UNDECIDED = "undecided"  # nothing parts, but only since nothing could be seen to

# originals: a control's first difference is one ulp of the weights, a framework's is
# A run may be this many times further from another than the controls are from their
# originals: a control's first difference is one ulp of the weights, a framework's is
# the order in which every sum of the forward pass is taken.
ENVELOPE = 10.0
HUNDRED = 100  # the steps over which the fixed bounds hold
# would allow a tenth, and says little. Final accuracy is compared instead.
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
        1e-7 every few steps, and falls to another side than its own nudged double.
    """

    first: float
    hundred: float
    controls: bool


# Where 8 or 11 bits are multiplied, no bound for a hundred steps is both safe and
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


@dataclass(frozen=True)
class Comparison:
    """One run held against another.

    Args:
      a, b: labels of the runs.
      kind: "frameworks" or "world sizes".
      differences: |loss_a - loss_b| / max of both, per step, shape (steps,).
      allowed: what each difference may be, shape (steps,).
      leaves: parameter name -> largest difference over largest value, at the end.
      leaves_allowed: what each of those may be.
      test_difference: relative difference of the test losses.
      scores: test accuracies of both, without classes the negated test losses.
      broken: what is not allowed, in words.
      unseen: what could not be judged, in words. The runs are identical if both are
        empty.
      by_score: whether losses and weights were compared up to a step alone, and test
        scores instead from there on.
      wandering: what is not held against the other, for no gradient beyond rounding
        moved it, and running means that follow it: name -> as in `leaves`.
    """

    a: str
    b: str
    kind: str
    differences: list[float]
    allowed: list[float]
    leaves: dict[str, float]
    leaves_allowed: dict[str, float]
    test_difference: float
    scores: tuple[float, float]
    broken: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    wandering: dict[str, float] = field(default_factory=dict)
    by_score: bool = False

    @property
    def verdict(self) -> str:
        if self.broken:
            return DIFFERENT
        if self.unseen:
            return UNDECIDED
        return ALIKE if self.by_score else IDENTICAL

    @property
    def worst_step(self) -> int:
        """The step, from 1, whose loss differs most."""
        return int(np.argmax(self.differences)) + 1

    def within(self, bound: float) -> bool:
        """Whether no loss, weight or test loss is further apart than that."""
        return max(self.test_difference, *self.differences, *self.leaves.values()) <= (
            bound
        )

    @property
    def worst_leaf(self) -> str:
        return max(self.leaves, key=lambda name: self.leaves[name])


@dataclass(frozen=True)
class Envelope:
    """How far controls, which differ by rounding alone, are from their originals.

    Args:
      losses: largest relative difference of any control up to each step.
      leaves: parameter name -> largest relative difference at the end.
      scores: framework -> test accuracies of its controls and their original, without
        classes negated test losses, shape (runs,). Not of both frameworks together:
        two that are apart would widen the interval that is to tell them apart.
      examples: in the test set.
      chance: the score of a guess; without classes minus infinity.
    """

    losses: Float[np.ndarray, " steps"]
    leaves: dict[str, float]
    scores: dict[str, Float[np.ndarray, " runs"]]
    examples: int
    chance: float

    @property
    def lost(self) -> int | None:
        """The first step, from 1, at which a control has lost the trajectory."""
        above = self.losses > LOST
        return int(np.argmax(above)) + 1 if above.any() else None

    def score_interval(self, framework: str) -> tuple[float, float]:
        """Where the score of one more run of the framework lies with 99 % confidence.

        Student's prediction interval over its controls, and never narrower than one
        test example on either side, which is accuracy's own resolution.
        """
        scores = self.scores[framework]
        n, mean = len(scores), float(scores.mean())
        spread = float(scores.std(ddof=1)) if n > 1 else 0.0
        quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, max(n - 1, 1)))
        half = max(quantile * spread * np.sqrt(1 + 1 / n), 1 / self.examples)
        return mean - half, mean + half


def relative_difference(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """|a - b| / max(|a|, |b|), elementwise; 0 where both are the same, NaN included.

    >>> relative_difference(np.array([1.0, 0.0]), np.array([1.5, 0.0])).round(3)
    array([0.333, 0.   ])
    """
    scale = np.maximum(np.abs(a), np.abs(b))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.abs(a - b) / scale
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    # A number against NaN or infinity is as different as can be.
    return np.where(same, 0.0, np.nan_to_num(difference, nan=np.inf))


def leaf_differences(a: Weights, b: Weights) -> dict[str, float]:
    """Each parameter's largest absolute difference over its largest absolute value.

    Raises:
      RecordError: if the runs do not have the same parameters, naming the first.
    """
    for name in sorted(a.keys() | b.keys()):
        shapes = [w[name].shape if name in w else "absent" for w in (a, b)]
        if shapes[0] != shapes[1]:
            raise RecordError(
                f"parameter {name} is {shapes[0]} in the one and {shapes[1]} in the "
                "other: runs of different models are not compared"
            )
    return {name: _leaf_difference(a[name], b[name]) for name in a}


def _leaf_difference(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    difference = np.abs(a - b).max(initial=0.0)
    if difference == 0:
        return 0.0
    relative = difference / max(np.abs(a).max(), np.abs(b).max())
    return float(np.nan_to_num(relative, nan=np.inf))


def losses(run: Run) -> Float[np.ndarray, " steps"]:
    """The training loss of every step."""
    return np.array([row["loss"] for row in run.of_kind("step")], np.float64)


def envelope(pairs: Sequence[tuple[Run, Run]]) -> Envelope:
    """The envelope of controls, each paired with the run it was nudged from."""
    curves = [relative_difference(losses(a), losses(b)) for a, b in pairs]
    leaves = [leaf_differences(a.weights, b.weights) for a, b in pairs]
    every = {id(run): run for pair in pairs for run in pair}.values()
    scores: dict[str, list[float]] = {}
    for run in every:
        scores.setdefault(run.summary["framework"], []).append(score(run))
    confusion = pairs[0][0].summary["test"]["confusion"]
    return Envelope(
        np.maximum.accumulate(np.max(curves, axis=0)),
        {name: max(leaf[name] for leaf in leaves) for name in leaves[0]},
        {name: np.array(values) for name, values in scores.items()},
        int(np.sum(confusion)) if confusion else 1_000_000,
        1 / len(confusion) if confusion else -np.inf,
    )


def score(run: Run) -> float:
    """Test accuracy, or the negated test loss where there are no classes."""
    test = run.summary["test"]
    return -test["loss"] if test["accuracy"] is None else test["accuracy"]


def compare(
    a: tuple[str, Run], b: tuple[str, Run], kind: str, control: Envelope | None
) -> Comparison:
    """Hold a labelled run against another.

    Args:
      control: the envelope of the controls; needed where the precision's bounds say so.

    Raises:
      RecordError: if the runs are not of one recipe, or not equally long.
    """
    (label_a, run_a), (label_b, run_b) = a, b
    _same_recipe(a, b)
    bounds = BOUNDS[run_a.config.precision.name]
    curve_a, curve_b = losses(run_a), losses(run_b)
    if len(curve_a) != len(curve_b):
        raise RecordError(
            f"{label_a} has {len(curve_a)} steps, {label_b} has {len(curve_b)}"
        )
    differences = relative_difference(curve_a, curve_b)
    leaves = leaf_differences(run_a.weights, run_b.weights)
    if not bounds.controls:
        allowed = np.full(len(differences), bounds.hundred)
        leaves_allowed = dict.fromkeys(leaves, bounds.hundred)
    elif control is None:
        raise ValueError("this precision is judged by controls, none were given")
    else:
        held = fixed_bound_holds(control.losses, bounds)
        allowed = np.minimum(
            # Where the controls have not parted yet, one step's own rounding.
            np.maximum(ENVELOPE * control.losses, bounds.first),
            np.where(held, bounds.hundred, np.inf),
        )
        leaves_allowed = {
            name: min(
                max(ENVELOPE * control.leaves[name], bounds.first),
                # As for losses: for as long as the controls keep to it themselves.
                bounds.hundred
                if held[-1] and control.leaves[name] <= bounds.hundred
                else np.inf,
            )
            for name in leaves
        }
    allowed[0] = min(allowed[0], bounds.first)
    lost = control.lost if bounds.controls and control else None
    if lost is not None:
        allowed[max(lost - 1, 1) :] = np.inf  # the first step's bound always holds
        leaves_allowed = dict.fromkeys(leaves, np.inf)
    test_a, test_b = (run.summary["test"]["loss"] for run in (run_a, run_b))
    comparison = Comparison(
        label_a,
        label_b,
        kind,
        differences.tolist(),
        allowed.tolist(),
        leaves,
        leaves_allowed,
        float(relative_difference(np.array(test_a), np.array(test_b))),
        (score(run_a), score(run_b)),
    )
    judge_bounds(comparison, run_a, run_b, control)
    comparison.broken.extend(scales_part(run_a, run_b, lost))
    settled = np.isfinite(bounds.hundred) and comparison.within(bounds.hundred)
    if lost is None or control is None or settled:
        return comparison
    for run, other in (a, run_b), (b, run_a):
        _judge_score(comparison, run, control, other.summary["framework"])
    return replace(comparison, by_score=not comparison.within(bounds.first))


def fixed_bound_holds(
    control: Float[np.ndarray, " steps"], bounds: Bounds
) -> Bool[np.ndarray, " steps"]:
    """Where the bound for a hundred steps applies beside the controls' envelope.

    >>> fixed_bound_holds(np.array([0, 9e-4, 2e-3, 2e-3]), BOUNDS["fp32"])
    array([ True,  True, False, False])
    """
    return (control <= bounds.hundred) & (np.arange(len(control)) < HUNDRED)


# A device's share of a gradient is rounded to 16 bits before the sum, which is of fp32.
SCALE_BY_SIZE = (
    " (what overflows on one device need not overflow in the shares of several; "
    "a lower precision.loss_scale.initial keeps clear of it)"
)


def _same_recipe(a: tuple[str, Run], b: tuple[str, Run]) -> None:
    for key in ("config_hash", "data_fingerprint"):
        values = [run.summary[key] for _, run in (a, b)]
        if values[0] != values[1]:
            raise RecordError(
                f"{a[0]} and {b[0]} are not the same experiment: {key} is "
                f"{values[0][:12]} and {values[1][:12]}"
            )


def judge_bounds(
    comparison: Comparison,
    a: Run,
    b: Run,
    control: Envelope | None,
    covered: int | None = None,
) -> None:
    """Note in a comparison what its bounds do not allow, and what they cannot judge.

    Args:
      covered: steps that the bounds are for, which judge no later one; None: all.
    """
    doubted = _set_wandering_apart(comparison, a, b, control)
    broken = broken_bounds(comparison)
    if doubted and not broken:
        comparison.unseen.append(
            f"{', '.join(doubted)} part by as much as they are large, while all losses "
            f"agree: as rounding does where it is all there is of a gradient. {DECIDE}"
        )
    elif (
        broken
        and covered is not None
        and covered <= agreed_steps(comparison)
        and (covered < len(comparison.differences))
    ):
        comparison.unseen.append(
            f"the losses agree up to step {agreed_steps(comparison)} of "
            f"{len(comparison.differences)}, the bounds are for {covered}. "
            f"Later {'; '.join(broken)}: rounding may have grown to that. {DECIDE}"
        )
    else:
        comparison.broken.extend(broken)


DECIDE = (
    "To decide, train both anew by launch/parity.py: in precision=fp64, or in others "
    "with controls, for 100 steps"
)


def agreed_steps(comparison: Comparison) -> int:
    """The last step up to which all losses are within what is allowed."""
    above = np.greater(comparison.differences, comparison.allowed)
    return int(np.argmax(above)) if above.any() else len(above)


def _set_wandering_apart(
    comparison: Comparison, a: Run, b: Run, control: Envelope | None
) -> list[str]:
    """Take what parts by rounding alone out of what is judged.

    Returns:
      What may have; it is not judged either.
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
    told = wandering(a, b, controls, precision)
    doubted = []
    for name in beyond:
        if _moved_by(told.known, name, comparison, a, b):
            comparison.wandering[name] = leaves.pop(name)
        elif _moved_by(told.doubted, name, comparison, a, b):
            doubted.append(name)
            allowed[name] = np.inf
    return doubted


def _moved_by(
    biases: frozenset[str], name: str, comparison: Comparison, a: Run, b: Run
) -> bool:
    """Whether a leaf is one of these, or a running mean as far apart as they are."""
    if name in biases:
        return True
    largest = max(size(run.weights[name]) for run in (a, b))
    return comparison.leaves[name] * largest <= shift(
        name, a.weights, b.weights, biases
    )


def looser(*precisions: str) -> str:
    """The precision whose bounds allow most.

    >>> looser("fp32", "fp64")
    'fp32'
    """
    return max(precisions, key=lambda name: (BOUNDS[name].first, BOUNDS[name].hundred))


def broken_bounds(comparison: Comparison) -> list[str]:
    """Every bound that is broken, the first step and the largest leaf by name."""
    broken = []
    above = np.greater(comparison.differences, comparison.allowed)
    if above.any():
        step = int(np.argmax(above))
        broken.append(
            f"the loss parts at step {step + 1}: "
            f"{comparison.differences[step]:.2e} relative, "
            f"{comparison.allowed[step]:.2e} allowed"
        )
    excess = {
        name: value / comparison.leaves_allowed[name]
        for name, value in comparison.leaves.items()
    }
    largest = max(excess, key=lambda name: excess[name], default="")
    if largest and excess[largest] > 1:
        broken.append(
            f"the final weights part, most at {largest}: "
            f"{comparison.leaves[largest]:.2e} relative, "
            f"{comparison.leaves_allowed[largest]:.2e} allowed"
        )
    if comparison.test_difference > comparison.allowed[-1]:
        broken.append(
            f"the test loss parts: {comparison.test_difference:.2e} relative, "
            f"{comparison.allowed[-1]:.2e} allowed"
        )
    return broken


def scales_part(a: Run, b: Run, lost: int | None) -> list[str]:
    """The first step whose loss was scaled otherwise, while the trajectory is held.

    A scale is a power of its factors, the same in both to the last bit.
    """
    pairs = zip(a.of_kind("step"), b.of_kind("step"), strict=True)
    for step, (row_a, row_b) in enumerate(pairs, start=1):
        if lost is not None and step >= lost:
            break
        if row_a["loss_scale"] != row_b["loss_scale"]:
            sizes = a.summary["world_size"], b.summary["world_size"]
            mend = "" if sizes[0] == sizes[1] else SCALE_BY_SIZE
            return [
                f"the loss scale parts at step {step}: {row_a['loss_scale']:g} and "
                f"{row_b['loss_scale']:g}{mend}"
            ]
    return []


def _judge_score(
    comparison: Comparison, labelled: tuple[str, Run], control: Envelope, framework: str
) -> None:
    """Hold a run's score against the interval of the controls of the other's framework.

    One that reaches down to chance would let anything pass.
    """
    label, run = labelled
    low, high = control.score_interval(framework)
    interval = f"{framework}'s controls, {low:.4f} to {high:.4f}"
    if not low <= score(run) <= high:
        comparison.broken.append(
            f"the test score of {label} is {score(run):.4f}, outside of {interval}"
        )
    elif low <= control.chance:
        comparison.unseen.append(
            f"the test score of {label} cannot be told from chance by {interval}: take "
            "more controls, or a recipe that learns"
        )


def worst(verdicts: Iterable[str]) -> str:
    """What several comparisons come to together.

    >>> worst(["identical", "undecided", "identical"])
    'undecided'
    """
    severity = {IDENTICAL: 0, ALIKE: 1, UNDECIDED: 2}  # nothing is as bad as another
    return max(verdicts, key=lambda v: severity.get(v, 3), default=IDENTICAL)


@dataclass(frozen=True)
class Verdict:
    """What a parity check came to; `parity.json` holds it.

    Args:
      comparisons: every pair that was held against each other.
      control: the envelope that judged them, where there is one.
      notes: what a reader has to know beside it.
    """

    experiment: str
    precision: str
    config_hash: str
    data_fingerprint: str
    comparisons: list[Comparison]
    control: Envelope | None
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return worst(c.verdict for c in self.comparisons)

    @property
    def set_apart(self) -> list[str]:
        """What was not held against the other, in words: one line, or none."""
        names = dict.fromkeys(name for c in self.comparisons for name in c.wandering)
        return [no_gradient(names)] if names else []

    @property
    def decided_by(self) -> str:
        bounds, control = BOUNDS[self.precision], self.control
        if control is None:
            finite = np.isfinite(bounds.hundred)
            return f"fixed bounds ({bounds.hundred if finite else bounds.first:.0e})"
        envelope = f"{ENVELOPE:g} x the envelope of the controls"
        lost = ""
        if control.lost is not None:
            intervals = ", ".join(
                "{1:.4f} to {2:.4f} of {0}".format(name, *control.score_interval(name))
                for name in control.scores
            )
            lost = (
                f"; from step {control.lost} on, where they are beyond {LOST:g} and "
                "have lost the trajectory, by the test scores lying in the "
                f"{CONFIDENCE:.0%} interval of the other's controls, {intervals}"
            )
        if np.isinf(bounds.hundred):
            return f"a first step within {bounds.first:.0e} and {envelope}{lost}"
        held = fixed_bound_holds(control.losses, bounds)
        if held.all():
            return f"fixed bounds ({bounds.hundred:.0e}) and {envelope}"
        last = int(np.argmin(held))
        if all(c.within(bounds.hundred) for c in self.comparisons):
            return (
                f"fixed bounds ({bounds.hundred:.0e}) to the end and {envelope} up to "
                f"step {last}"
            )
        why = "the controls themselves are beyond it"
        if last == HUNDRED:
            why = "it holds for a hundred steps"
        return (
            f"fixed bounds ({bounds.hundred:.0e}) and {envelope} up to step {last}, "
            f"by the envelope alone from there, since {why}{lost}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite as text, as in the run folder."""
        return {
            "schema_version": 1,
            "verdict": self.verdict,
            "decided_by": self.decided_by,
            "notes": self.notes,
            "experiment": self.experiment,
            "precision": self.precision,
            "config_hash": self.config_hash,
            "data_fingerprint": self.data_fingerprint,
            "control_losses": None
            if self.control is None
            else self.control.losses.tolist(),
            "comparisons": [
                strict_json({**asdict(c), "verdict": c.verdict})
                for c in self.comparisons
            ],
        }
