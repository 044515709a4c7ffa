"""Verdicts as messages: parity, and what it allows to be claimed about speed."""

from collections.abc import Iterator, Sequence

from report.analysis.checks import Check
from report.analysis.comparisons import SpeedComparison, different_devices
from report.analysis.findings import Report
from report.analysis.groups import name_among, own_parts
from report.analysis.intervals import TOO_NOISY, format_count
from report.page.sentences import devices, format_list, format_ratio
from report.parity.bounds import ALIKE, DIFFERENT, IDENTICAL, PASSES, UNDECIDED, worst

# What the page says of parity as a whole: a check's verdict, or that there is none.
UNKNOWN = "not checked"
NOT_IDENTICAL = {
    DIFFERENT: "PyTorch and JAX did not train the same thing",
    UNDECIDED: "Whether PyTorch and JAX trained the same thing could not be decided",
}


def parity(report: Report) -> tuple[str, str]:
    """The verdict over everything that is compared, and its message."""
    checks = report.checks
    verdict = worst(check.verdict for check in checks)
    if verdict not in PASSES:
        of = [check for check in checks if check.verdict == verdict]
        names = ", ".join(f"{c.experiment} in {c.precision}" for c in of)
        why = next((f": {reason}" for check in of for reason in check.reasons), "")
        return verdict, (
            f"{NOT_IDENTICAL[verdict]} ({names}){why}. Their speeds are not compared "
            "below."
        )
    apart = different_devices(report.scaling.cells)
    apart = f" {apart}, so nothing is said of the frameworks' speeds." if apart else ""
    compared = len(report.comparisons)
    unproven = [c.withheld for c in report.comparisons if c.withheld]
    if not checks or (compared and len(unproven) == compared):
        why = [*unproven, "no parity check that can be read is among them"][0]
        return UNKNOWN, (
            f"Whether PyTorch and JAX trained the same thing is not shown: {why}. "
            f"Their speeds are not compared below.{apart}"
        )
    where = f"in {format_list(sorted({check.precision for check in checks}))}"
    steps = {len(c.differences) for check in checks for c in check.comparisons}
    at_least = "at least " * (len(steps) > 1)
    where += f", over {at_least}the first {format_count(min(steps), 'step')}"
    part = ""
    if unproven:
        part = (
            f" For {len(unproven)} of {compared} configurations that is not shown, and "
            "their speeds are not compared."
        )
    if verdict == ALIKE:
        return ALIKE, (
            f"PyTorch and JAX are not told apart {where}: where rounding makes their "
            "losses and weights diverge, their test scores lie in the interval of each "
            f"other's controls.{part}{apart}"
        )
    return IDENTICAL, (
        f"PyTorch and JAX trained the same thing {where}: their losses and final "
        f"weights are no further apart than rounding allows.{part}{apart}"
    )


def check_sentence(check: Check) -> str:
    """A check's verdict and what decided it."""
    sentence = f"{check.name}: {check.verdict}, by {check.decided_by}"
    if len(check.devices) > 1:
        sentence += f"; its devices differ: {format_list(check.devices)}"
    return sentence


def comparison_sentences(report: Report) -> Iterator[str]:
    """Every comparison, with how its cells differ from the report's others."""
    for found in report.comparisons:
        own = own_parts(found.cell.setting, report.common)
        sentence = comparison_sentence(found, report.comparisons)
        yield ", ".join([*own, f"batch {found.cell.global_batch_size}", sentence])


def comparison_sentence(
    found: SpeedComparison, beside: Sequence[SpeedComparison]
) -> str:
    """Whether JAX was faster in a cell; nothing without a parity check.

    Args:
      beside: the comparisons that its programs' names are to differ from.
    """
    where, difference = devices(found.cell.world_size), found.difference
    jax = name_among(found.cell.setting, [c.cell.setting for c in beside])
    torch = name_among(found.under.setting, [c.under.setting for c in beside])
    if found.withheld or difference is None:
        return f"{where}: {jax} and {torch} not compared, {found.withheld}"
    faster = {"faster": f"{jax} is faster", "slower": f"{torch} is faster"}
    verdict = faster.get(difference.verdict, difference.verdict)
    notes = [f"n = {' and '.join(map(str, difference.repeats))}"]
    if difference.ratio.low is None:
        verdict = f"not decided ({difference.reason})"
    elif difference.verdict == TOO_NOISY:
        timed = f", {found.seconds:.2g} s were timed" if found.seconds else ""
        verdict += f" ({difference.reason}{timed}; measure longer)"
    else:
        notes.append(difference.reason)
    if difference.ratio.low is not None:
        notes.insert(0, f"{difference.level} interval")
    if len(found.commits) > 1:
        commits = format_list(found.commits)
        notes.append(f"these runs and their parity check are of commits {commits}")
    return (
        f"{where}: {verdict}, {jax} runs at {difference.ratio:.3f} times "
        f"{torch}'s images/s ({'; '.join(filter(None, notes))})"
    )


def compiled_sentences(report: Report) -> Iterator[str]:
    """How compiling changes PyTorch's speed; nothing without parity checks."""
    others = [found.cell.setting for found in report.compiled]
    for found in report.compiled:
        cell = found.cell
        own = own_parts(cell.setting, report.common)
        name, where = name_among(cell.setting, others), devices(cell.world_size)
        speed = f"runs at {format_ratio(found)} times eager PyTorch's images/s"
        if found.withheld:
            speed = f"is not compared with eager PyTorch, {found.withheld}"
        elif len(found.commits) > 1:
            commits = format_list(found.commits)
            speed += f" (these runs and their parity checks are of commits {commits})"
        yield ", ".join(
            [*own, f"batch {cell.global_batch_size}", f"{where}: {name} {speed}"]
        )


def batch_sentences(report: Report) -> Iterator[str]:
    """Checks with a smaller global batch than the cells that they answer for."""
    cells = [p.cell for curve in report.scaling.curves for p in curve.points]
    for check in report.checks:
        batches = {c.global_batch_size for c in cells if check.is_called_like(c)}
        if batches and max(batches) > check.global_batch_size:
            cells_at = format_list([f"{batch:,}" for batch in sorted(batches)])
            yield (
                f"{check.name} was checked at a global batch of "
                f"{check.global_batch_size:,}, which fits on one device; timed at "
                f"{cells_at}"
            )
