"""What the figures of `make claims` mean: T(N), break-even, and each claim's ratio."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from report.analysis.intervals import Estimate, median_estimate, ratio_estimate

Repeats = list[dict[str, Any]]  # of one program: seconds and bytes of each run
Cases = dict[str, Estimate]  # by model, framework or way


def fixed_seconds(run: Mapping[str, float]) -> float:
    """What a run costs before its first step: the N = 0 of T(N)."""
    return run["import"] + run["start"] + run["compile"]


def total_seconds(repeats: Repeats, steps: int) -> float:
    """T(N) = import + start + compile + N × step, the median of the repeats."""
    return median(fixed_seconds(run) + steps * run["step"] for run in repeats)


@dataclass(frozen=True)
class BreakEven:
    """Where the second of two programs has spent less time in total than the first.

    Args:
      kind: "always", "never", "from" a number of steps on, or "until" it.
      steps: that number; None for the first two kinds.
      same_step: whether the steps are not shown to differ, so that all else decides.
    """

    kind: str
    steps: Estimate | None = None
    same_step: bool = False

    def __str__(self) -> str:
        if self.steps is None:
            return self.kind + " †" * self.same_step
        return f"{self.kind} {self.steps:,.0f}"


def break_even(first: Repeats, second: Repeats) -> BreakEven:
    """N* = (C2 - C1) / (s1 - s2), of fixed costs C and seconds per step s.

    >>> cheap = {"import": 1.0, "start": 0.0, "compile": 0.0, "step": 0.2}
    >>> quick = {"import": 2.0, "start": 0.0, "compile": 0.0, "step": 0.1}
    >>> str(break_even([cheap] * 3, [quick] * 3))
    'from 10 (10 to 10)'
    >>> str(break_even([quick] * 3, [cheap] * 3))
    'until 10 (10 to 10)'
    """
    seconds = [[run["step"] for run in of] for of in (first, second)]
    steps = ratio_estimate(seconds[0], seconds[1])
    assert steps.low is not None and steps.high is not None
    costs = [median(map(fixed_seconds, of)) for of in (first, second)]
    if steps.low <= 1 <= steps.high:
        kind = "always" if costs[1] < costs[0] else "never"
        return BreakEven(kind, same_step=True)
    quicker, dearer = steps.low > 1, costs[1] > costs[0]
    if quicker != dearer:
        return BreakEven("always" if quicker else "never")
    kind = "from" if quicker else "until"
    points = [
        (fixed_seconds(b) - fixed_seconds(a)) / (a["step"] - b["step"])
        for a, b in zip(first, second, strict=True)
    ]
    if all(point > 0 for point in points):
        return BreakEven(kind, median_estimate(points))
    slower, faster = (median(run["step"] for run in of) for of in (first, second))
    at = (costs[1] - costs[0]) / (slower - faster)
    return BreakEven(kind, Estimate(at, reason="not in each repeat"))


def _of(results: dict[str, Any], model: str, *starts: str) -> Repeats:
    """The repeats of programs whose names start so."""
    programs = results["cost"][model]["programs"]
    return [r for name, its in programs.items() if name.startswith(starts) for r in its]


def _ratio(key: str, over: str, under: str) -> Callable[[dict[str, Any]], Cases]:
    """The ratio of a figure of two programs, by model."""

    def measured(results: dict[str, Any]) -> Cases:
        def values(model: str, program: str) -> list[float]:
            return [run[key] for run in _of(results, model, program)]

        return {
            model: ratio_estimate(values(model, over), values(model, under))
            for model in results["cost"]
        }

    return measured


def _memory(results: dict[str, Any]) -> Cases:
    """By the device's allocator where there is one, else by the process."""
    runs = _of(results, next(iter(results["cost"])), "torch eager")
    key = "peak_process" if runs[0]["peak_device"] is None else "peak_device"
    return _ratio(key, "torch compiled, cold", "torch eager")(results)


def _compile(results: dict[str, Any]) -> Cases:
    return {
        model: median_estimate([r["compile"] for r in _of(results, model, "jax, cold")])
        for model in results["cost"]
    }


def _nan(results: dict[str, Any]) -> Cases:
    torch, jax = (results["nan"][f] for f in ("torch", "jax"))
    names = {"tool": "the framework's tool", "trace": "train.trace"}
    return {name: ratio_estimate(jax[way], torch[way]) for way, name in names.items()}


def _efficiency(results: dict[str, Any]) -> Cases:
    """Of DDP; of nothing where there was one device."""
    if not results["scaling"]:
        return {}
    return {"two processes": median_estimate(results["scaling"]["torch"])}


def _gradient(results: dict[str, Any]) -> Cases:
    its = results["gradient"]
    return {"cnn": ratio_estimate(its["jax"], its["torch eager"])}


def _nnx(results: dict[str, Any]) -> Cases:
    its = results["nnx"]
    return {f"{its['variables']} variables": median_estimate(its["microseconds"])}


# A claim's `measure` in claims.yaml -> its estimates.
MEASURES: dict[str, Callable[[dict[str, Any]], Cases]] = {
    "jax_over_eager": _ratio("step", "torch eager", "jax"),
    "jax_over_compiled": _ratio("step", "torch compiled", "jax"),
    "compiled_over_eager": _ratio("step", "torch eager", "torch compiled"),
    "memory_compiled_over_eager": _memory,
    "jax_compile_seconds": _compile,
    "warm_over_cold": _ratio("compile", "jax, warm", "jax, cold"),
    "nnx_microseconds": _nnx,
    "efficiency": _efficiency,
    "nan_jax_over_torch": _nan,
    "gradient_jax_over_eager": _gradient,
}


def holds(case: Estimate, side: str, bound: float) -> str:
    """Whether a claim holds in a case: "yes", "no" or "undecided" by its interval.

    >>> holds(Estimate(1.5, 1.2, 1.8), "above", 1.0)
    'yes'
    >>> holds(Estimate(1.5, 0.9, 2.0), "above", 1.0)
    'undecided'
    """
    if case.low is None or case.high is None:
        return "undecided"
    above, below = case.low > bound, case.high < bound
    if side == "below":
        above, below = below, above
    return "yes" if above else "no" if below else "undecided"
