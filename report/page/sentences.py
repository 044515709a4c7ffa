"""Findings in words: the same on the page, in Markdown and in JSON."""

from collections.abc import Iterator, Sequence

from report.analysis.accuracy import Accuracy
from report.analysis.breakdown import REST, Breakdown, Ratio
from report.analysis.checks import Check
from report.analysis.findings import Claim, Projection, Report
from report.analysis.groups import FRAMEWORKS, Group, name_among, own_parts
from report.analysis.intervals import TOO_NOISY, Estimate
from report.analysis.laws import Fit
from report.analysis.projection import by_law, describes
from report.analysis.runs import ARMS, EXCHANGE
from report.analysis.scaling import WEAK, Curve
from report.analysis.sweeps import words
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


def shown(estimate: Estimate | None, form: str) -> str:
    """A figure with its interval, where it has one.

    >>> shown(Estimate(1.5, 1.25, 1.75), ".2f")
    '1.50 (1.25 to 1.75)'
    """
    if estimate is None:
        return "–"
    value = format(estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({estimate.low:{form}} to {estimate.high:{form}})"


def devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count:,} devices"


def framework(curve_or_name: Curve | str) -> str:
    name = curve_or_name
    if isinstance(name, Curve):
        name = name.setting.framework
    return FRAMEWORKS.get(name, name)


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


def of_what(report: Report) -> str:
    """What all of it has in common, in one line."""
    runs = report.runs
    common = [v for name, v in report.common.items() if v and name != "experiment"]
    sizes = in_words([f"{size:,}" for size in sorted({r.world_size for r in runs})])
    names = " and ".join(sorted({framework(run.framework) for run in runs})[::-1])
    told = f"{len(runs)} runs of {names} on {sizes} devices"
    if not runs:
        told = "No run that can be timed is among the folders"
        if count := len(report.scaling.left_out):
            told += f"; {count} were left out, each with its reason under that heading"
    return "; ".join([told, *common])


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
            else f"runs at {_ratio(found.ratio)} of eager PyTorch's images/s"
        )
        if not found.withheld and len(found.commits) > 1:
            told = in_words(found.commits)
            said += f" (these runs and their parity checks are of commits {told})"
        yield ", ".join([*own, f"batch {cell.global_batch}", f"{where}: {name} {said}"])


def _ratio(found: Ratio) -> str:
    why = f" ({found.estimate.reason})" if found.estimate.reason else ""
    return shown(found.estimate, ".3f") + why


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


def accuracy_sentences(report: Report, group: Group) -> Iterator[str]:
    """What a group's trainings come to; of a sweep, its best recipe by program."""
    if not group.is_sweep:
        for curve in group.curves:
            cells = dict.fromkeys((curve.points[0].cell, curve.points[-1].cell))
            scores = [s for cell in cells if (s := report.accuracy_of(cell))]
            yield from (f"{group.label(curve)} {_score(score)}" for score in scores)
        return
    for name in dict.fromkeys(map(group.name_of, group.curves)):
        curves = [c for c in group.curves if group.name_of(c) == name]
        cells = [curve.points[0].cell for curve in curves]
        scores = [s for cell in cells if (s := report.accuracy_of(cell))]
        if scores:
            best = max(scores, key=lambda score: score.mean.value)
            yield (
                f"{name}, best of {len(scores)} recipes, "
                f"{words(best.cell.setting.varied)}, {_score(best)}; the best of "
                "several looks better than it is"
            )


def _score(score: Accuracy) -> str:
    spread = ""
    if score.spread is not None:
        spread = f" over {score.seeds} seeds, spread {score.spread:.2g}"
    why = f" ({score.mean.reason})" if score.mean.reason else ""
    return (
        f"on {devices(score.cell.world_size)} comes to a test accuracy of "
        f"{shown(score.mean, '.4f')}{spread}{why}"
    )


def rate_sentences(group: Group) -> Iterator[str]:
    """The base case's absolute rates, and what the most devices make of them."""
    for curve in group.curves:
        first, last = curve.points[0], curve.points[-1]
        said = (
            f"{group.label(curve)} trains {shown(first.images_per_second, ',.0f')} "
            f"images/s on {devices(first.cell.world_size)}"
        )
        if last is not first:
            said += (
                f" and {shown(last.images_per_second, ',.0f')} on "
                f"{devices(last.cell.world_size)}"
            )
        yield said + _repeats(curve)


def _repeats(curve: Curve) -> str:
    reasons = {p.images_per_second.reason for p in curve.points} - {""}
    return f" ({'; '.join(sorted(reasons))})" if reasons else ""


def scaling_sentences(group: Group) -> Iterator[str]:
    for curve in group.curves:
        last = curve.points[-1]
        if curve.reason or last.speedup is None or last is curve.points[0]:
            yield f"{group.label(curve)}: no speed-up, {curve.reason}"
            continue
        yield (
            f"{group.label(curve)} is {shown(last.speedup, '.2f')} times as fast on "
            f"{devices(last.cell.world_size)} as on {curve.base}: efficiency "
            f"{shown(last.efficiency, '.3f')}"
            + (f" ({last.speedup.reason})" if last.speedup.reason else "")
        )


def overhead_sentences(group: Group) -> Iterator[str]:
    """What Karp and Flatt's fraction says of each curve, as far as it is sure."""
    for curve in group.curves:
        name = "s" if curve.regime == WEAK else "e"
        points = [p for p in curve.points if p.serial_fraction is not None]
        if not points:
            continue
        first, last = points[0].serial_fraction, points[-1].serial_fraction
        assert first is not None and last is not None
        ends = f"{name}({points[-1].cell.world_size}) = {shown(last, '.3f')}"
        if len(points) > 1:
            ends = (
                f"{name}({points[0].cell.world_size}) = {shown(first, '.3f')}, {ends}"
            )
        yield f"{group.label(curve)}: {ends}: {_overhead(first, last, len(points))}"


def _overhead(first: Estimate, last: Estimate, points: int) -> str:
    if last.low is None or last.high is None:
        return f"how sure that is is not known, {last.reason}"
    if last.low > 1:
        return "more devices take longer than they save"
    if points > 1 and first.high is not None and last.low > first.high:
        return "it rises, so an overhead grows with the devices"
    if last.low > 0:
        part = f"about {last.value:.0%}" if last.value < 1 else "most or all"
        return f"{part} of a step does not get faster with more devices"
    if last.high < 0:
        return "faster than ideal: each device has less to do, or more to do it with"
    return "not told from 0: no part that does not scale is shown"


def held_back_sentences(report: Report, group: Group) -> Iterator[str]:
    """What does not scale, and what a step of the most devices is made of."""
    yield from overhead_sentences(group)
    for curve in group.curves:
        last, label = curve.points[-1].cell, group.label(curve)
        if (found := report.breakdown_of(last)) is not None:
            yield breakdown_sentence(found, label)
        for cost in report.data_costs:
            if cost.cell is last:
                yield (
                    f"{label}, {devices(last.world_size)}: on real data at "
                    f"{_ratio(cost)} of the images/s on synthetic images"
                )


def breakdown_sentence(found: Breakdown, label: str) -> str:
    size = found.cell.world_size
    parts = in_words(
        [
            f"{shown(share, '.1%')} is {part}"
            for part, share in found.shares.items()
            if part != REST
        ]
    )
    said = (
        f"{label}, {devices(size)}: of a step of {found.milliseconds.value:.3g} ms, "
        f"{parts}"
    )
    if size > 1 and ARMS[EXCHANGE] not in found.shares:
        said += (
            "; what the exchange takes was not measured, by runs without it "
            "(study.exchange=[true,false])"
        )
    reasons = sorted({share.reason for share in found.shares.values()} - {""})
    return said + (f" ({'; '.join(reasons)})" if reasons else "")


def fit_sentence(fit: Fit) -> str:
    if fit.reason:
        return f"{fit.law}: no fit, {fit.reason}"
    values = ", ".join(
        f"{name} {shown(estimate, '.4g')}" for name, estimate in fit.parameters.items()
    )
    reasons = {estimate.reason for estimate in fit.parameters.values()} - {""}
    return (
        f"{fit.law}: {values}; {fit.held_out} devices, held out, are "
        f"predicted {fit.prediction_error:+.1%}"
        + (f" ({'; '.join(sorted(reasons))})" if reasons else "")
    )


def fit_sentences(group: Group) -> Iterator[str]:
    """Each law that was fitted, and once why others were not."""
    without: dict[str, list[str]] = {}
    for curve in group.curves:
        label = group.label(curve)
        for fit in curve.fits:
            if fit.reason:
                without.setdefault(fit.reason, []).append(f"{label}'s {fit.law}")
            else:
                yield f"{label}, {fit_sentence(fit)}"
    for reason, laws in without.items():
        yield f"Not fitted, with {reason}: {in_words(laws)}"


def projection_sentence(projection: Projection, label: str) -> str:
    if projection.reason:
        return f"{label}: no projection, {projection.reason}"
    last, net = projection.points[-1], projection.interconnect
    assert net is not None
    errors = in_words(
        [f"{error:+.0%} on {n}" for n, error in sorted(projection.errors.items())]
    )
    off = f"Where it was measured, the model is off by {errors or '–'}"
    law = "".join(
        f" {fit.law}'s law, fitted to the curve, says "
        f"{shown(by_law(fit, last.devices), ',.0f')} images/s on "
        f"{devices(last.devices)}."
        for fit in projection.curve.fits[:1]
        if not fit.reason
    )
    if not describes(projection.errors):
        return (
            f"{label}: the model does not describe this curve, and its figure is not "
            f"quoted: something other than the exchange over {net.name} holds it back."
            f"{law} {off}, and by +3% to +19% of published tables"
        )
    return (
        f"{label}: at most {last.images_per_second:,.0f} images/s on "
        f"{devices(last.devices)} over {net.name}, efficiency {last.efficiency:.2f}, "
        f"says the model.{law} {off}"
    )


def in_words(words: Sequence[str]) -> str:
    """In words: "a", "a and b", "a, b and c"."""
    *most, last = words or [""]
    return f"{', '.join(most)} and {last}" if most else last
