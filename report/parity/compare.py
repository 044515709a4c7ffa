"""Two records -> where they differ, and whether that is allowed.

Training amplifies rounding, so in fp32 a fixed tolerance is either blind or wrong. The
question asked here is whether two runs are further apart than a framework is from
itself after its initial weights were moved by one unit in the last place: the controls.
In fp64 there is room enough to do without: a difference there is a bug, not rounding.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from recipe.config import leaves
from recipe.errors import RecordError
from recipe.execution import LOCAL_KEYS, Strategy
from record.run import Run
from report.parity.bounds import (
    BOUNDS,
    ENVELOPE,
    HUNDRED,
    Bounds,
    fixed_bound_holds,
    looser,
)
from report.parity.devices import devices_differ
from report.parity.differences import (
    Envelope,
    leaf_differences,
    losses,
    relative_difference,
    score,
)
from report.parity.doubts import agreed_steps, excuse_growth, excuse_leaves
from report.parity.verdict import Comparison, Verdict

# A device's share of a gradient is rounded to 16 bits before the sum, which is of fp32.
SCALE_BY_SIZE = (
    " (a gradient that overflows on one device may not overflow when it is divided "
    "over several; a lower precision.loss_scale.initial avoids that)"
)


def compare(
    a: tuple[str, Run], b: tuple[str, Run], kind: str, control: Envelope | None
) -> Comparison:
    """Compare two labelled runs.

    Args:
      control: the envelope of the controls; needed where the precision's bounds say so.

    Raises:
      RecordError: if the runs are not of one recipe, or not equally long.
    """
    (label_a, run_a), (label_b, run_b) = a, b
    for key in ("config_hash", "data_fingerprint"):
        one, other = run_a.summary[key], run_b.summary[key]
        if one != other:
            raise RecordError(
                f"{label_a} and {label_b} are not the same experiment: {key} is "
                f"{one[:12]} and {other[:12]}"
            )
    bounds = BOUNDS[run_a.config.precision.name]
    if bounds.controls and control is None:
        raise ValueError("this precision is judged by controls, none were given")
    control = control if bounds.controls else None
    comparison = measured(a, b, kind, bounds, control)
    judge_bounds(comparison, run_a, run_b, control)
    lost = control and control.lost
    comparison.broken.extend(scales_part(run_a, run_b, lost))
    settled = np.isfinite(bounds.hundred) and comparison.within(bounds.hundred)
    if control is None or lost is None or settled:
        return comparison
    for run, other in (a, run_b), (b, run_a):
        _judge_score(comparison, run, control, other.summary["framework"])
    return replace(comparison, by_score=not comparison.within(bounds.first))


def measured(
    a: tuple[str, Run],
    b: tuple[str, Run],
    kind: str,
    bounds: Bounds,
    control: Envelope | None,
) -> Comparison:
    """How far two labelled runs are apart, and what bounds and controls allow.

    Raises:
      RecordError: if they have not the same parameters, are not equally long, or are
        of local SGD at different world sizes.
    """
    (label_a, run_a), (label_b, run_b) = a, b
    sizes = run_a.summary["world_size"], run_b.summary["world_size"]
    local = [r.config.parallel.name == Strategy.LOCAL_SGD for r in (run_a, run_b)]
    if all(local) and sizes[0] != sizes[1]:
        raise RecordError(
            f"{label_a} has {sizes[0]} replicas, {label_b} has {sizes[1]}: under "
            "parallel=local_sgd the world size is part of the experiment, as each "
            "replica trains on its part of a batch; compare runs of one world size"
        )
    curves = [losses(run) for run in (run_a, run_b)]
    if len(curves[0]) != len(curves[1]):
        raise RecordError(
            f"{label_a} has {len(curves[0])} steps, {label_b} has {len(curves[1])}; "
            "compare runs of the same number of steps"
        )
    try:
        leaves = leaf_differences(run_a.weights, run_b.weights)
    except RecordError as error:
        one, other = (run.config.model.name for run in (run_a, run_b))
        raise RecordError(
            f"{label_a} is of model {one}, {label_b} of {other}: {error}"
        ) from error
    allowed = np.full(len(curves[0]), bounds.hundred)
    leaves_allowed = dict.fromkeys(leaves, bounds.hundred)
    if control is not None:
        held = fixed_bound_holds(control.losses, bounds)
        allowed = _allowed(control.losses, held, bounds)
        for name, moved in control.leaves.items():
            # As for losses: for as long as the controls keep to it themselves.
            keeps = held[-1] and moved <= bounds.hundred
            leaves_allowed[name] = float(_allowed(moved, keeps, bounds))
    allowed[0] = min(allowed[0], bounds.first)
    if control is not None and control.lost is not None:
        allowed[max(control.lost - 1, 1) :] = np.inf  # the first step's always holds
        leaves_allowed = dict.fromkeys(leaves, np.inf)
    tests = [np.array(run.summary["test"]["loss"]) for run in (run_a, run_b)]
    return Comparison(
        label_a,
        label_b,
        kind,
        differences=relative_difference(*curves).tolist(),
        allowed=allowed.tolist(),
        leaves=leaves,
        leaves_allowed=leaves_allowed,
        test_difference=float(relative_difference(*tests)),
        scores=(score(run_a), score(run_b)),
    )


def _allowed(
    control: float | Float[np.ndarray, "..."],
    holds: bool | Bool[np.ndarray, "..."],
    bounds: Bounds,
) -> Float[np.ndarray, "..."]:
    """Ten times as far as the controls are, within the fixed bound where that holds."""
    # Where the controls have not diverged yet, one step's own rounding.
    near = np.maximum(ENVELOPE * np.asarray(control), bounds.first)
    return np.where(holds, np.minimum(near, bounds.hundred), near)


def judge_bounds(
    comparison: Comparison,
    a: Run,
    b: Run,
    control: Envelope | None,
    covered: int | None = None,
) -> None:
    """Add to a comparison the bounds that it breaks, and what they cannot judge.

    Args:
      covered: steps that the bounds are for, which judge no later one; None: all.
    """
    doubts = excuse_leaves(comparison, a, b, control)
    if broken := broken_bounds(comparison):
        doubts = excuse_growth(comparison, broken, covered)
    comparison.unseen.extend(doubts)
    comparison.broken.extend([] if doubts else broken)


def broken_bounds(comparison: Comparison) -> list[str]:
    """Every bound that is broken, the first step and the largest leaf by name."""
    broken = []
    above = np.greater(comparison.differences, comparison.allowed)
    if above.any():
        step = int(np.argmax(above))
        broken.append(
            f"the losses differ from step {step + 1} on: "
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
            f"the final weights differ, most at {largest}: "
            f"{comparison.leaves[largest]:.2e} relative, "
            f"{comparison.leaves_allowed[largest]:.2e} allowed"
        )
    if comparison.test_difference > comparison.allowed[-1]:
        broken.append(
            f"the test loss differs: {comparison.test_difference:.2e} relative, "
            f"{comparison.allowed[-1]:.2e} allowed"
        )
    return broken


def scales_part(a: Run, b: Run, lost: int | None) -> list[str]:
    """The first step at which the loss scales differ, before the trajectory is lost.

    A scale is a power of its factors, the same in both to the last bit.
    """
    pairs = zip(a.of_kind("step"), b.of_kind("step"), strict=True)
    for step, (row_a, row_b) in enumerate(pairs, start=1):
        if lost is not None and step >= lost:
            break
        if row_a["loss_scale"] != row_b["loss_scale"]:
            sizes = a.summary["world_size"], b.summary["world_size"]
            advice = "" if sizes[0] == sizes[1] else SCALE_BY_SIZE
            return [
                f"the loss scale differs at step {step}: {row_a['loss_scale']:g} and "
                f"{row_b['loss_scale']:g}{advice}"
            ]
    return []


def _judge_score(
    comparison: Comparison, labelled: tuple[str, Run], control: Envelope, framework: str
) -> None:
    """Compare a run's score with the interval of the other framework's controls.

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
            f"the test score of {label} cannot be distinguished from chance by "
            f"{interval}: use more controls, or a recipe that learns"
        )


# Where a run happens, what it is called and how it is looked at: no part of its recipe.
# Of `parallel`: all but the keys of local SGD, and its name where one run is of that.
PLACE = (
    *("name", "devices", "platform", "tracking", "tuned", "run"),
    *("task", "deterministic", "compile", "data.root", "data.source", "model.folder"),
    *("train.log_every_steps", "train.timed_seconds", "train.trace", "data.files"),
)


def label_of(run: Run) -> str:
    """For people: "torch ×2, fp64"."""
    summary = run.summary
    return f"{summary['framework']} ×{summary['world_size']}, {summary['precision']}"


def compare_two(a: tuple[str, Run], b: tuple[str, Run]) -> Verdict:
    """Compare two runs by the fixed bounds of the looser precision.

    Recipes may differ: whoever looks for why two runs differ wants the numbers, and the
    keys first of all, so these are in the notes.

    Raises:
      RecordError: if they have not the same parameters, or are not equally long.
    """
    (_, run_a), (_, run_b) = a, b
    precision = looser(*(run.config.precision.name for run in (run_a, run_b)))
    comparison = compare_fixed(a, b, precision)
    differ = devices_differ({label: run.environment for label, run in (a, b)})
    return Verdict(
        experiment=run_a.config.name,
        precision=precision,
        config_hash=run_a.summary["config_hash"],
        data_fingerprint=run_a.summary["data_fingerprint"],
        comparisons=[comparison],
        control=None,
        notes=[*differ, *notes(run_a, run_b, precision, len(comparison.differences))],
    )


def compare_fixed(a: tuple[str, Run], b: tuple[str, Run], precision: str) -> Comparison:
    """The comparison by a precision's fixed bounds alone.

    Raises:
      RecordError: if the runs have not the same parameters, or are not equally long.
    """
    (_, run_a), (_, run_b) = a, b
    bounds = BOUNDS[precision]
    # fp64 has room for more; in fewer bits nothing says how far rounding has grown.
    covered = HUNDRED if bounds.controls else None
    if np.isinf(bounds.hundred):
        # Where controls alone bound a hundred steps, the first step's bound has to do.
        bounds, covered = replace(bounds, hundred=bounds.first), 1
    comparison = measured(a, b, "runs", bounds, None)
    judge_bounds(comparison, run_a, run_b, None, covered)
    if run_a.config.precision.name == run_b.config.precision.name:
        # Once runs have diverged, what overflows in one need not in the other.
        lost = agreed_steps(comparison) + 1
        comparison.broken.extend(scales_part(run_a, run_b, lost))
    return comparison


def notes(a: Run, b: Run, precision: str, steps: int) -> Iterator[str]:
    """How the recipes differ, and what the bounds cannot judge."""
    for name, run in ("a", a), ("b", b):
        for difference in run.summary["resumed_anyway"]:
            yield f"{name} was resumed with run.resume_anyway: {difference}"
    for key, (one, other) in recipe_differences(a, b).items():
        one, other = ("null" if value is None else value for value in (one, other))
        yield f"the recipes differ: {key} is {one} in a and {other} in b"
    if a.summary["data_fingerprint"] != b.summary["data_fingerprint"]:
        yield "the datasets differ: their fingerprints are not the same"
    if BOUNDS[precision].controls:
        yield (
            f"{precision} was judged without controls, by fixed bounds alone: beyond "
            "the first step rounding may break them, and a difference below them may "
            "be real. In fp64 there is no such doubt"
        )
    elif steps > HUNDRED:
        yield (
            f"the bound is for {HUNDRED} steps, these runs have {steps}: a "
            "difference that appears later and grows step by step may be rounding"
        )


def recipe_differences(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Key -> its two values, where the recipes differ; places are excluded."""
    flat = [dict(leaves(asdict(run.config))) for run in (a, b)]
    names = {run.config.parallel.name for run in (a, b)}
    numbers = ("name", *LOCAL_KEYS) if Strategy.LOCAL_SGD in names else ()
    return {
        key: (flat[0].get(key), flat[1].get(key))
        for key in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(key) != flat[1].get(key)
        and not any(key == place or key.startswith(f"{place}.") for place in PLACE)
        and (not key.startswith("parallel.") or key.split(".")[1] in numbers)
    }
