"""Findings in words: the same on the page, in Markdown and in JSON."""

from collections.abc import Iterator, Sequence

from report.analysis.accuracy import Accuracy
from report.analysis.breakdown import REST, Breakdown, Ratio
from report.analysis.findings import Report
from report.analysis.groups import Group, framework_name
from report.analysis.intervals import Estimate
from report.analysis.laws import Fit
from report.analysis.projection import Projection, by_law
from report.analysis.runs import ARMS, EXCHANGE
from report.analysis.scaling import WEAK, Curve
from report.analysis.sweeps import words


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


def group_target(report: Report, group: Group) -> str:
    """The accuracy that times of a group are to, after a space; empty without one."""
    return next((f" {t.target:g}" for t in report.times[group.title]), "")


def of_what(report: Report) -> str:
    """What all of it has in common, in one line."""
    runs = report.runs
    common = [v for name, v in report.common.items() if v and name != "experiment"]
    sizes = in_words([f"{size:,}" for size in sorted({r.world_size for r in runs})])
    names = " and ".join(sorted({framework_name(r.framework) for r in runs})[::-1])
    told = f"{len(runs)} runs of {names} on {sizes} devices"
    if not runs:
        told = "No run that can be timed is among the folders"
        if count := len(report.scaling.left_out):
            told += f"; {count} were left out, each with its reason under that heading"
    return "; ".join([told, *common])


def ratio_shown(found: Ratio) -> str:
    """With why there is no interval."""
    why = f" ({found.estimate.reason})" if found.estimate.reason else ""
    return shown(found.estimate, ".3f") + why


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
                    f"{ratio_shown(cost)} of the images/s on synthetic images"
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
    if not projection.describes:
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
