"""Verdicts in words: parity, and what may be claimed of speeds by it."""

from collections.abc import Iterator, Sequence

from report.analysis.checks import Check
from report.analysis.claims import Claim
from report.analysis.findings import Report
from report.analysis.groups import name_among, own_parts
from report.analysis.intervals import TOO_NOISY
from report.analysis.scaling import Curve
from report.page.sentences import devices, in_words, ratio_shown, shown
from report.parity.bounds import (
    ALIKE,
    DIFFERENT,
    IDENTICAL,
    PASSES,
    UNDECIDED,
    worst,
)

# What the page says of parity as a whole: a check's verdict, or that there is none.
UNKNOWN = "not checked"
NOT_IDENTICAL = {
    DIFFERENT: "PyTorch and JAX did not train the same thing",
    UNDECIDED: "Whether PyTorch and JAX trained the same thing could not be told",
}


def parity(report: Report) -> tuple[str, str]:
    """The verdict over everything that is compared, and a sentence for it."""
    checks = report.checks
    verdict = worst(check.verdict for check in checks)
    if verdict not in PASSES:
        of = [check for check in checks if check.verdict == verdict]
        told = ", ".join(f"{c.experiment} in {c.precision}" for c in of)
        why = next((f": {reason}" for check in of for reason in check.reasons), "")
        return verdict, (
            f"{NOT_IDENTICAL[verdict]} ({told}){why}. Their speeds are not compared "
            "below."
        )
    unproven = [claim for claim in report.claims if claim.withheld]
    if not checks or (report.claims and len(unproven) == len(report.claims)):
        return UNKNOWN, (
            "Whether PyTorch and JAX trained the same thing is not shown: "
            + (
                unproven[0].withheld
                if unproven
                else "no parity check that can be read is among them"
            )
            + ". Their speeds are not compared below."
        )
    told = f"in {in_words(sorted({check.precision for check in checks}))}"
    part = ""
    if unproven:
        part = (
            f" For {len(unproven)} of {len(report.claims)} cells that is not shown, "
            "and their speeds are not compared."
        )
    if verdict == ALIKE:
        return ALIKE, (
            f"PyTorch and JAX are not told apart {told}: where rounding parts their "
            "losses and weights, their test scores lie in the interval of each other's "
            f"controls.{part}"
        )
    return IDENTICAL, (
        f"PyTorch and JAX trained the same thing {told}: their losses and final "
        f"weights are no further apart than rounding allows.{part}"
    )


def check_sentence(check: Check) -> str:
    """How a check judged."""
    return f"{check.name}: {check.verdict}, by {check.decided_by}"


def claim_sentences(report: Report) -> Iterator[str]:
    """Every claim, with what tells its cells from the report's others."""
    for claim in report.claims:
        cell = claim.versus.jax
        own = own_parts(cell.setting, report.common)
        batch = f"batch {cell.global_batch}"
        yield ", ".join([*own, batch, claim_sentence(claim, report.claims)])


def claim_sentence(claim: Claim, beside: Sequence[Claim]) -> str:
    """Whether JAX was faster in a cell; nothing without a parity check.

    Args:
      beside: the claims that its programs are told from.
    """
    versus = claim.versus
    where = devices(versus.jax.world_size)
    jax = name_among(versus.jax.setting, [c.versus.jax.setting for c in beside])
    torch = name_among(versus.torch.setting, [c.versus.torch.setting for c in beside])
    if claim.withheld:
        return f"{where}: {jax} and {torch} not compared, {claim.withheld}"
    ratio = shown(versus.difference.ratio, ".3f")
    how = {"faster": f"{jax} is faster", "slower": f"{torch} is faster"}
    difference = versus.difference
    said = how.get(difference.verdict, difference.verdict)
    n = " and ".join(map(str, difference.repeats))
    notes = [f"n = {n}"]
    if difference.verdict == TOO_NOISY:
        timed = f", {claim.seconds:.2g} s were timed" if claim.seconds else ""
        said += f" ({difference.reason}{timed}; measure longer)"
    else:
        notes.append(difference.reason)
    if difference.ratio.low is not None:
        notes.insert(0, f"{difference.level} interval")
    if len(claim.commits) > 1:
        told = in_words(claim.commits)
        notes.append(f"these runs and their parity check are of commits {told}")
    return (
        f"{where}: {said}, {jax} runs at {ratio} of {torch}'s images/s "
        f"({'; '.join(filter(None, notes))})"
    )


def compiled_sentences(report: Report) -> Iterator[str]:
    """What compiling makes of PyTorch's speed; nothing without parity checks."""
    others = [found.ratio.cell.setting for found in report.compiled]
    for found in report.compiled:
        cell = found.ratio.cell
        own = own_parts(cell.setting, report.common)
        name, where = name_among(cell.setting, others), devices(cell.world_size)
        said = (
            f"is not compared with eager PyTorch, {found.withheld}"
            if found.withheld
            else f"runs at {ratio_shown(found.ratio)} of eager PyTorch's images/s"
        )
        if not found.withheld and len(found.commits) > 1:
            told = in_words(found.commits)
            said += f" (these runs and their parity checks are of commits {told})"
        yield ", ".join([*own, f"batch {cell.global_batch}", f"{where}: {name} {said}"])


def commit_sentences(curve: Curve) -> Iterator[str]:
    """Which of a curve's points average what different code did."""
    for point in curve.points:
        if len(commits := point.cell.commits) > 1:
            where = devices(point.cell.world_size)
            yield f"{where}: runs of different commits, {in_words(commits)}"


def batch_sentences(report: Report) -> Iterator[str]:
    """Checks that trained on less at once than the cells that they answer for."""
    cells = [p.cell for curve in report.scaling.curves for p in curve.points]
    for check in report.checks:
        batches = {c.global_batch for c in cells if check.is_called_like(c)}
        if batches and max(batches) > check.global_batch:
            cells_at = in_words([f"{batch:,}" for batch in sorted(batches)])
            yield (
                f"{check.name} was checked at a global batch of "
                f"{check.global_batch:,}, which one device holds too; timed at "
                f"{cells_at}"
            )
