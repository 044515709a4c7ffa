"""Two traces of one step -> the first layer at which they differ, and what to suspect.

What is compared, in the order in which a step computes it: the weights before it, the
batch, each layer's output, the loss, then backwards each layer's gradients, and the
weights after it. Whatever comes before the first to differ agrees, so the cause lies
between it and the one before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from jaxtyping import Float

from recipe.weights import Weights
from record.run import AVERAGE, averaged
from record.schema import strict_json
from record.trace import Trace
from report.parity.bounds import BOUNDS, DIFFERENT, ENVELOPE, IDENTICAL
from report.parity.differences import largest_difference, largest_finite, size
from report.parity.rounding import WANDERS, gradient_rounding, taken

# A gradient that is zero but for rounding (of a bias before a normalisation, of an
# attention key's) has no size of its own: none counts for less than this fraction of
# the largest in the model.
LEAST_GRADIENT = 1e-3


@dataclass(frozen=True)
class Difference:
    """How far one array of a step differs.

    Args:
      stage: "weights", "input", "labels", "forward", "loss", "backward", "update" or
        "average", which is the last.
      layer: the module, or the parameter where it is of no traced module.
      what: description.
      value: largest difference over the largest value.
      allowed: upper bound of `value`.
    """

    stage: str
    layer: str
    what: str
    value: float
    allowed: float = np.inf

    @property
    def differs(self) -> bool:
        return self.value > self.allowed


@dataclass(frozen=True)
class TraceVerdict:
    """The verdict of a trace, as `trace.json` holds it.

    Args:
      differences: everything compared, in the order of the step.
      kinds: module -> its class in either twin.
      alone: modules, parameters and statistics that one twin alone has; of modules with
        their class.
      decided_by: the bounds, in words.
      wandering: parameters that no gradient beyond rounding moves; they are not
        compared.
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
        """The first to differ."""
        return next((d for d in self.differences if d.differs), None)

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
        known = f"; everything up to {before[-1].what} agrees" if before else ""
        return (
            f"the first difference is {first.what}: {first.value:.1e} relative, "
            f"{first.allowed:.1e} allowed{known}"
        )

    @property
    def suspects(self) -> str:
        """What usually makes this kind of layer differ; empty if none does."""
        if self.first is None:
            return ""
        usual = suspects(self.first.stage, self.first.layer, self.kinds)
        if dropout := [name for name in self.alone if "dropout" in name.lower()]:
            return f"dropout in one twin alone: {', '.join(dropout)}; {usual}"
        return usual

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite as text, as in the run folder."""
        found = {name: getattr(self, name) for name in ("verdict", "suspects")}
        found |= {"first": self.first and asdict(self.first), **asdict(self)}
        return {"schema_version": 2, **strict_json(found)}


T = TypeVar("T")
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
    """Compare one step of the two twins.

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
    # Of a gradient that sums terms as large as the whole model's gradient.
    rounding = gradient_rounding(precision, a[0].outputs["input"].size)
    noise = [rounding * _norm(trace.gradients) for trace, _ in (a, b)]
    biases = _wandering(a, b, found, own if controls else None, noise, reach)
    shifted = [_shifted(d, a, b, biases) for d in found]
    if controls:
        # What rounding alone moves is a measure of nothing that comes after it.
        counted = [0.0 if by else value for by, value in zip(shifted, own, strict=True)]
        allowed = np.maximum(ENVELOPE * np.maximum.accumulate(counted), bounds.first)
        decided_by = f"{ENVELOPE:g} x the envelope of the controls"
    else:
        bound = bounds.first if a[0].step == 1 else bounds.hundred
        rounded = _rounded(a, b, max(noise))
        carried = [
            max(_carried(d, a, b, biases), rounded.get(d.what, 0.0)) for d in found
        ]
        allowed = np.maximum(bound, carried)
        decided_by = f"the fixed bound {bound:.0e}"
    limits = [max(float(most), by) for most, by in zip(allowed, shifted, strict=True)]
    kinds_a, kinds_b = a[0].kinds, b[0].kinds
    kinds = _both(kinds_a, kinds_b)
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
    noise: list[float],
    reach: float,
) -> frozenset[str]:
    """Parameters whose gradient is rounding alone, no further apart than it took them.

    Args:
      own: how far controls are apart in each of `found`, where there are some.
      noise: what rounding may make of a gradient in each twin.
    """
    without_gradient = {
        name
        for name, pair in _both(a[0].gradients, b[0].gradients).items()
        if all(size(g) <= most for g, most in zip(pair, noise, strict=True))
    }
    if own is not None:
        return frozenset(
            d.layer
            for d, value in zip(found, own, strict=True)
            if d.stage in ("weights", "update") and value > WANDERS
        ).intersection(without_gradient)
    pairs = [*_both(a[0].weights, b[0].weights).items(), *_both(a[1], b[1]).items()]
    beyond = {
        name
        for name, (x, y) in pairs
        if name in without_gradient and not size(x - y) <= 2 * reach
    }
    return frozenset(without_gradient - beyond)


def _rounded(a: Traced, b: Traced, noise: float) -> dict[str, float]:
    """How far rounding may take each weight's gradient, relative to its size.

    A gradient may be much smaller than its terms, as behind a normalisation, where most
    of them cancel.
    """
    least = _least_gradient(a[0], b[0])
    if not least:  # no gradient is other than zero, or none is finite
        return {}
    return {
        gradient_of(name): noise / max(least, largest_finite(*pair))
        for name, pair in _both(a[0].gradients, b[0].gradients).items()
    }


def _least_gradient(a: Trace, b: Trace) -> float:
    return LEAST_GRADIENT * largest_finite(*a.gradients.values(), *b.gradients.values())


def _norm(gradients: Weights) -> float:
    """The 2-norm of them all; what has overflowed is excluded."""
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
    if difference.what in map(gradient_of, biases):
        return np.inf
    if difference.stage not in ("weights", "update", "average"):
        return 0.0
    if name.removeprefix(AVERAGE) in biases:
        return np.inf
    before = difference.stage == "weights"
    one, other = (t[0].weights if before else t[1] for t in (a, b))
    if name not in one or name not in other or one[name].shape != other[name].shape:
        return 0.0
    return taken(name, one, other, biases)


def differences(a: Traced, b: Traced) -> list[Difference]:
    """All that both traces hold, compared in the order in which a step computes it."""
    (trace_a, after_a), (trace_b, after_b) = a, b
    # As far apart as can be.
    found = [
        Difference("weights", name, f"{name}, which one twin alone has", np.inf)
        for name in trace_a.weights | trace_b.weights
        if name not in trace_a.weights or name not in trace_b.weights
    ]

    def compared(
        stage: str,
        layer: str,
        what: str,
        one: np.ndarray,
        other: np.ndarray,
        scale: float = 0.0,
    ) -> None:
        value = largest_difference(one, other, scale)
        found.append(Difference(stage, layer, what, value))

    for name, pair in _both(trace_a.weights, trace_b.weights).items():
        compared("weights", name, f"{name} before the step", *pair)
    for name, pair in _both(trace_a.outputs, trace_b.outputs).items():
        if name in trace_a.kinds:
            compared("forward", name, f"the output of {name}", *pair)
        else:
            compared(name, name, f"the {name}", *pair)

    least = _least_gradient(trace_a, trace_b)
    leaves = _both(trace_a.gradients, trace_b.gradients)

    def compare_leaves(names: Iterable[str]) -> None:
        for name in list(names):
            layer, pair = name.rpartition(".")[0] or name, leaves.pop(name)
            compared("backward", layer, gradient_of(name), *pair, scale=least)

    outputs = _both(trace_a.output_gradients, trace_b.output_gradients)
    for name, pair in reversed(outputs.items()):
        scale = largest_finite(*(pixel_sums(np.abs(gradient)) for gradient in pair))
        what = f"the gradient of {name}'s output"
        compared("backward", name, what, *map(pixel_sums, pair), scale=scale)
        if "#" not in name:
            compare_leaves(n for n in leaves if n.rpartition(".")[0] == name)
    compare_leaves(leaves)

    for name, pair in _both(after_a, after_b).items():
        stage = "average" if averaged(name) else "update"
        compared(stage, name, f"{name} after the step", *pair)
    return found


def gradient_of(name: str) -> str:
    """A parameter's gradient, in words."""
    return f"the gradient of {name}"


def _both(a: Mapping[str, T], b: Mapping[str, T]) -> dict[str, tuple[T, T]]:
    """What both have, in the order of the first."""
    return {name: (a[name], b[name]) for name in a if name in b}


def pixel_sums(gradient: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Of NHWC gradients, the sums over each example's and channel's pixels.

    Of equal pixels, a background's say, max-pooling picks one, and rounding decides in
    either framework which are equal: the same gradient falls on another pixel. Measured
    on digits_cnn in fp64: .5 apart by pixels, 1e-15 in these sums and in the weights.
    """
    return gradient.sum(axis=(1, 2)) if gradient.ndim == 4 else gradient


SUSPECTS: dict[str, str] = yaml.safe_load(
    Path(__file__).with_name("suspects.yaml").read_text(encoding="utf-8")
)
BETWEEN = (
    "or a function called between the two: activation (GELU's tanh or erf), pooling "
    "(padding with -inf), flattening, residual"
)


def suspects(stage: str, layer: str, kinds: dict[str, tuple[str, str]]) -> str:
    """What to look at where a stage of a step differs at a layer, from the contract.

    Args:
      kinds: module -> its class in either twin.

    >>> suspects("forward", "stem", {"stem": ("Conv2d", "Conv")}).split(",")[0]
    'padding (SAME pads (0'
    """
    if stage == "update" and layer.endswith((".mean", ".var")):
        return SUSPECTS["statistics"]
    if stage in SUSPECTS:
        return SUSPECTS[stage]
    kind = " ".join(kinds.get(layer, ())).lower()
    found = next((text for name, text in SUSPECTS.items() if name in kind), "")
    return "; ".join(filter(None, (found, BETWEEN)))
