"""The verdict of a parity check, pair by pair and as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from record.schema import strict_json
from report.parity.bounds import (
    ALIKE,
    BOUNDS,
    CONFIDENCE,
    DIFFERENT,
    ENVELOPE,
    HUNDRED,
    IDENTICAL,
    LOST,
    PASSES,
    UNDECIDED,
    fixed_bound_holds,
    worst,
)
from report.parity.differences import Envelope
from report.parity.rounding import no_gradient


@dataclass(frozen=True)
class Comparison:
    """Two runs compared.

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
      wandering: what is not compared, as no gradient beyond rounding moved it, and
        running means that follow it: name -> as in `leaves`.
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

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> "Comparison":
        """A comparison from `parity.json`, as bad as anything in it says.

        Raises:
          AttributeError, LookupError, TypeError, ValueError: where it is damaged.
        """
        stated = checked_verdict(held["verdict"])
        names = {field.name for field in fields(cls)} & held.keys()
        found = cls(**{name: held[name] for name in names})
        differences, leaves = _distances(found.differences), _distances(found.leaves)
        (test,) = _distances([found.test_difference]).values()
        if not differences or not leaves:
            raise ValueError("compares no loss or no weight")
        broken, unseen = list(map(str, found.broken)), list(map(str, found.unseen))
        if not broken and np.inf in (test, *differences.values(), *leaves.values()):
            broken = ["a difference is not a finite number"]
        reason = f"says {stated} and gives no reason"
        if stated == DIFFERENT and not broken:
            broken = [reason]
        elif stated == UNDECIDED and not (broken or unseen):
            unseen = [reason]
        return replace(
            found,
            a=str(found.a),
            b=str(found.b),
            differences=list(differences.values()),
            leaves=leaves,
            test_difference=test,
            broken=broken,
            unseen=unseen,
            by_score=stated == ALIKE,
        )

    @property
    def first(self) -> float:
        return self.differences[0]

    @property
    def worst(self) -> float:
        return max(self.differences)

    @property
    def weights(self) -> float:
        return max(self.leaves.values())

    @property
    def worst_step(self) -> int:
        """The step, from 1, whose loss differs most."""
        return int(np.argmax(self.differences)) + 1

    @property
    def worst_leaf(self) -> str:
        return max(self.leaves, key=lambda name: self.leaves[name])

    def within(self, bound: float) -> bool:
        """Whether no loss, weight or test loss is further apart than that."""
        apart = self.test_difference, *self.differences, *self.leaves.values()
        return max(apart) <= bound


def checked_verdict(given: Any) -> str:
    """A verdict from a file.

    Raises:
      ValueError: if there is no such verdict.
    """
    if given not in (*PASSES, UNDECIDED, DIFFERENT):
        raise ValueError(f"verdict {given}")
    return given


def _distances(held: Mapping[str, Any] | Sequence[Any]) -> dict[Any, float]:
    """Differences by name or place; what cannot be a distance is infinite."""
    given = held if isinstance(held, Mapping) else dict(enumerate(held))
    found = {name: float(value) for name, value in given.items()}
    return {n: value if 0 <= value < np.inf else np.inf for n, value in found.items()}


@dataclass(frozen=True)
class Verdict:
    """The verdict of a parity check, as `parity.json` holds it.

    Args:
      comparisons: every pair that was compared.
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
        """What was not compared: one message, or none."""
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
        names = ("verdict", "decided_by", "notes", "experiment", "precision")
        names += ("config_hash", "data_fingerprint")
        pairs = [{**asdict(c), "verdict": c.verdict} for c in self.comparisons]
        return {
            "schema_version": 1,
            **{name: getattr(self, name) for name in names},
            "control_losses": self.control and self.control.losses.tolist(),
            "comparisons": strict_json(pairs),
        }
