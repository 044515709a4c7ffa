"""Two finished runs -> whether they are the same, whatever trained them and where."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from recipe.config import leaves
from record.run import Run
from report.parity.bounds import BOUNDS, HUNDRED, looser
from report.parity.compare import judge_bounds, measured, scales_part
from report.parity.doubts import agreed_steps
from report.parity.verdict import Comparison, Verdict

# Where a run happens, what it is called and how it is looked at: no part of its recipe.
PLACE = (
    *("name", "devices", "platform", "parallel", "tracking", "tuned", "run"),
    *("task", "deterministic", "compile", "data.root", "data.source", "model.folder"),
    *("train.log_every_steps", "train.timed_seconds", "train.trace", "data.files"),
)


def label_of(run: Run) -> str:
    """For people: "torch ×2, fp64"."""
    summary = run.summary
    return f"{summary['framework']} ×{summary['world_size']}, {summary['precision']}"


def compare_two(a: tuple[str, Run], b: tuple[str, Run]) -> Verdict:
    """Hold a run against another by the fixed bounds of the looser precision.

    Recipes may differ: whoever looks for why two runs part wants the numbers, and the
    keys first of all, so these are told as notes.

    Raises:
      RecordError: if they have not the same parameters, or are not equally long.
    """
    (_, run_a), (_, run_b) = a, b
    precision = looser(*(run.config.precision.name for run in (run_a, run_b)))
    comparison = compare_fixed(a, b, precision)
    return Verdict(
        experiment=run_a.config.name,
        precision=precision,
        config_hash=run_a.summary["config_hash"],
        data_fingerprint=run_a.summary["data_fingerprint"],
        comparisons=[comparison],
        control=None,
        notes=list(notes(run_a, run_b, precision, len(comparison.differences))),
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
        # Of runs that part, what overflows in the one need not in the other.
        lost = agreed_steps(comparison) + 1
        comparison.broken.extend(scales_part(run_a, run_b, lost))
    return comparison


def notes(a: Run, b: Run, precision: str, steps: int) -> Iterator[str]:
    """What tells the recipes apart, and what the bounds cannot tell."""
    for name, run in ("a", a), ("b", b):
        for difference in run.summary["resumed_anyway"]:
            yield f"{name} was gone on with by run.resume_anyway: {difference}"
    for key, (one, other) in recipe_differences(a, b).items():
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
            f"the bound is for {HUNDRED} steps, these runs have {steps}: what parts "
            "later, and grows step by step, may be rounding"
        )


def recipe_differences(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Key -> its two values, where the recipes differ; places are left out."""
    flat = [dict(leaves(asdict(run.config))) for run in (a, b)]
    return {
        key: (flat[0].get(key), flat[1].get(key))
        for key in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(key) != flat[1].get(key)
        and not any(key == place or key.startswith(f"{place}.") for place in PLACE)
    }
