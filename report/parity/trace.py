"""Two traces of one step -> the first layer at which they part, and what to suspect.

What is compared, in the order in which a step computes it: the weights before it, the
batch, each layer's output, the loss, then backwards each layer's gradients, and the
weights after it. Whatever comes before the first to part agrees, so the cause lies
between it and the one before.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from recipe.weights import Weights
from record.run import AVERAGE, averaged
from record.trace import Trace
from report.parity.bounds import BOUNDS, DIFFERENT, ENVELOPE, IDENTICAL
from report.parity.rounding import WANDERS, gradient_rounding, shift, size
from report.parity.suspects import suspects

# A gradient that is zero but for rounding (of a bias before a normalisation, of an
# attention key's) has no size of its own: none counts for less than this share of the
# largest in the model.
LEAST_GRADIENT = 1e-3


@dataclass(frozen=True)
class Difference:
    """How far one array of a step is apart.

    Args:
      stage: "weights", "input", "labels", "forward", "loss", "backward", "update" or
        "average", which is the last.
      layer: the module, or the parameter where it is of no traced module.
      what: in words.
      value: largest difference over the largest value.
      allowed: what it may be.
    """

    stage: str
    layer: str
    what: str
    value: float
    allowed: float = np.inf

    @property
    def parts(self) -> bool:
        return self.value > self.allowed


@dataclass(frozen=True)
class TraceVerdict:
    """What a trace came to; `trace.json` holds it.

    Args:
      differences: everything compared, in the order of the step.
      kinds: module -> its class in either twin.
      alone: modules, parameters and statistics that one twin alone has; of modules with
        their class.
      decided_by: the bounds, in words.
      wandering: parameters that no gradient beyond rounding moves; they are not held
        against each other.
    """

    experiment: str
    precision: str
    step: int
    differences: list[Difference]
    kinds: dict[str, tuple[str, str]]
    alone: list[str]
    decided_by: str
    wandering: list[str]

    @property
    def first(self) -> Difference | None:
        """The first to part."""
        return next((d for d in self.differences if d.parts), None)

    @property
    def verdict(self) -> str:
        return IDENTICAL if self.first is None else DIFFERENT

    @property
    def message(self) -> str:
        """The finding in words."""
        first = self.first
        if first is None:
            return f"both twins compute step {self.step} alike, down to its update"
        before = self.differences[: self.differences.index(first)]
        known = f"; up to {before[-1].what} all agrees" if before else ""
        return (
            f"they part at {first.what}: {first.value:.1e} relative, "
            f"{first.allowed:.1e} allowed{known}"
        )

    @property
    def suspects(self) -> str:
        """What usually makes this kind of layer part; empty where nothing does."""
        if self.first is None:
            return ""
        usual = suspects(self.first.stage, self.first.layer, self.kinds)
        if dropout := [name for name in self.alone if "dropout" in name.lower()]:
            return f"dropout in one twin alone: {', '.join(dropout)}; {usual}"
        return usual

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinities, which JSON lacks, as None."""

        def plain(value: Any) -> Any:
            beyond = isinstance(value, float) and not np.isfinite(value)
            return None if beyond else value

        names = ("verdict", "decided_by", "experiment", "precision", "step", "first")
        names += ("suspects", "differences", "kinds", "alone", "wandering")
        held: dict[str, Any] = {name: getattr(self, name) for name in names}
        found = [{k: plain(v) for k, v in asdict(d).items()} for d in self.differences]
        first = self.first and found[self.differences.index(self.first)]
        return {"schema_version": 1, **held, "first": first, "differences": found}


Traced = tuple[Trace, Weights]  # a step, and `Run.weights` after it


def compare_traces(
    a: Traced,
    b: Traced,
    controls: Sequence[tuple[Traced, Traced]],
    *,
    experiment: str,
    precision: str,
    reach: float = 0.0,
) -> TraceVerdict:
    """Hold one step of either twin against the other's.

    Args:
      controls: perturbed runs' with those of their originals. Where there are some, a
        difference may be 10 x the largest of theirs so far, and never less
        than the bound of a first step; else fixed bounds hold.
      reach: how far rounding alone may have taken a weight; see `rounding.py`.
    """
    found = differences(a, b)
    bounds = BOUNDS[precision]
    apart = [{d.what: d.value for d in differences(*pair)} for pair in controls]
    own = [max((c.get(d.what, 0.0) for c in apart), default=0.0) for d in found]
    biases = _wandering(a, b, found, own if controls else None, precision, reach)
    shifted = [_shifted(d, a, b, biases) for d in found]
    if controls:
        # What rounding alone moves is a measure of nothing that comes after it.
        counted = [0.0 if by else value for by, value in zip(shifted, own, strict=True)]
        allowed = np.maximum(ENVELOPE * np.maximum.accumulate(counted), bounds.first)
        decided_by = f"{ENVELOPE:g} x the envelope of the controls"
    else:
        bound = bounds.first if a[0].step == 1 else bounds.hundred
        allowed = np.array([max(bound, _carried(d, a, b, biases)) for d in found])
        decided_by = f"the fixed bound {bound:.0e}"
    limits = [max(float(most), by) for most, by in zip(allowed, shifted, strict=True)]
    kinds_a, kinds_b = a[0].kinds, b[0].kinds
    kinds = {n: (kinds_a[n], kinds_b[n]) for n in _both(kinds_a, kinds_b)}
    every = (kinds_a | kinds_b).items()
    alone = {f"{name} ({kind})" for name, kind in every if name not in kinds}
    return TraceVerdict(
        experiment,
        precision,
        a[0].step,
        [replace(d, allowed=most) for d, most in zip(found, limits, strict=True)],
        kinds,
        sorted(alone | (a[0].weights.keys() ^ b[0].weights.keys())),
        decided_by,
        sorted(biases),
    )


def _wandering(
    a: Traced,
    b: Traced,
    found: list[Difference],
    own: list[float] | None,
    precision: str,
    reach: float,
) -> frozenset[str]:
    """Parameters whose gradient is rounding alone, no further apart than it took them.

    Args:
      own: how far controls are apart in each of `found`, where there are some.
    """
    terms = a[0].outputs["input"].size
    rounding = gradient_rounding(precision, terms)

    def without_gradient(name: str) -> bool:
        both = a[0].gradients, b[0].gradients
        return all(size(held[name]) <= rounding * _norm(held) for held in both)

    def near(name: str) -> bool:
        if own is None:
            pairs = (a[0].weights, b[0].weights), (a[1], b[1])
            apart = [
                size(x[name] - y[name]) for x, y in pairs if name in x and name in y
            ]
            return max(apart, default=0.0) <= 2 * reach
        return any(
            value > WANDERS
            for d, value in zip(found, own, strict=True)
            if d.stage in ("weights", "update") and d.layer == name
        )

    both = _both(a[0].gradients, b[0].gradients)
    return frozenset(name for name in both if without_gradient(name) and near(name))


def _norm(gradients: Weights) -> float:
    """The 2-norm of them all; what has overflowed is left out."""
    finite = (g[np.isfinite(g)].astype(np.float64) for g in gradients.values())
    return float(np.sqrt(sum(np.square(g).sum() for g in finite)))


def _carried(d: Difference, a: Traced, b: Traced, biases: frozenset[str]) -> float:
    """How far wandering parameters may shift an output before that is taken out again.

    By ten times as much as the furthest of them is apart, relative to the output.
    """
    if d.stage != "forward":
        return 0.0
    apart = (size(a[0].weights[n] - b[0].weights[n]) for n in biases)
    outputs = max(size(t[0].outputs[d.layer]) for t in (a, b))
    return ENVELOPE * max(apart, default=0.0) / outputs if outputs else 0.0


def _shifted(
    difference: Difference, a: Traced, b: Traced, biases: frozenset[str]
) -> float:
    """How far wandering parameters may have taken a weight, relative; else 0."""
    name = difference.layer
    if difference.what in {gradient_of(bias) for bias in biases}:
        return np.inf
    if difference.stage not in ("weights", "update", "average"):
        return 0.0
    if name.removeprefix(AVERAGE) in biases:
        return np.inf
    before = difference.stage == "weights"
    one, other = (t[0].weights if before else t[1] for t in (a, b))
    if name not in one or name not in other or one[name].shape != other[name].shape:
        return 0.0
    largest = max(size(one[name]), size(other[name]))
    return shift(name, one, other, biases) / largest if largest else 0.0


def differences(a: Traced, b: Traced) -> list[Difference]:
    """Everything that both traces have, in the order in which a step computes it."""
    (trace_a, after_a), (trace_b, after_b) = a, b
    found: list[Difference] = []

    def compared(stage: str, layer: str, what: str, value: float) -> None:
        found.append(Difference(stage, layer, what, value))

    both = _both(trace_a.weights, trace_b.weights)
    for name in trace_a.weights | trace_b.weights:
        if name not in both:  # as far apart as can be
            compared("weights", name, f"{name}, which one twin alone has", np.inf)
    for name in both:
        value = largest(trace_a.weights[name], trace_b.weights[name])
        compared("weights", name, f"{name} before the step", value)
    for name in _both(trace_a.outputs, trace_b.outputs):
        pair = trace_a.outputs[name], trace_b.outputs[name]
        own_stage = name not in trace_a.kinds
        what = f"the {name}" if own_stage else f"the output of {name}"
        compared(name if own_stage else "forward", name, what, largest(*pair))

    sums = [
        {name: pixel_sums(g) for name, g in trace.output_gradients.items()}
        for trace in (trace_a, trace_b)
    ]
    scales = [_largest_finite(*t.gradients.values()) for t in (trace_a, trace_b)]
    leaves = _both(trace_a.gradients, trace_b.gradients)

    def leaf(name: str) -> None:
        pair = trace_a.gradients[name], trace_b.gradients[name]
        value = largest(*pair, LEAST_GRADIENT * max(scales))
        layer = name.rpartition(".")[0]
        compared("backward", layer or name, gradient_of(name), value)

    for name in reversed(_both(*sums)):
        scale = _largest_finite(
            *(pixel_sums(np.abs(t.output_gradients[name])) for t in (trace_a, trace_b))
        )
        value = largest(sums[0][name], sums[1][name], scale)
        compared("backward", name, f"the gradient of {name}'s output", value)
        if "#" not in name:
            own = [n for n in leaves if n.rpartition(".")[0] == name]
            for n in own:
                leaf(n)
            leaves = [n for n in leaves if n not in own]
    for name in leaves:
        leaf(name)

    for name in _both(after_a, after_b):
        pair = after_a[name], after_b[name]
        stage = "average" if averaged(name) else "update"
        compared(stage, name, f"{name} after the step", largest(*pair))
    return found


def gradient_of(name: str) -> str:
    """A parameter's gradient, in words."""
    return f"the gradient of {name}"


def _both(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names in both, in the order of the first."""
    return [name for name in a if name in b]


def _largest_finite(*arrays: Float[np.ndarray, "..."]) -> float:
    """In fp16 a gradient may overflow; the others are still to be told apart."""
    every = (float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in arrays)
    return max(every, default=0.0)


def largest(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], scale: float = 0.0
) -> float:
    """Largest absolute difference over the largest absolute value, or over the scale.

    Arrays of different shapes are infinitely far apart, and so is a number from one
    that is not finite; infinities of one sign, and NaNs, are the same.

    >>> largest(np.array([1.0, 4.0]), np.array([2.0, 4.0]))
    0.25
    """
    if a.shape != b.shape:
        return np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.isfinite(a[~same]).all() or not np.isfinite(b[~same]).all():
        return np.inf
    difference = float(np.abs(a[~same] - b[~same]).max(initial=0.0))
    return difference / max(scale, _largest_finite(a, b)) if difference else 0.0


def pixel_sums(gradient: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Of NHWC gradients, the sums over each example's and channel's pixels.

    Of equal pixels, a background's say, max-pooling picks one, and rounding decides in
    either framework which are equal: the same gradient falls on another pixel. Measured
    on digits_cnn in fp64: .5 apart by pixels, 1e-15 in these sums and in the weights.
    """
    return gradient.sum(axis=(1, 2)) if gradient.ndim == 4 else gradient
