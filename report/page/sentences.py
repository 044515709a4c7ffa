"""Findings in words: the same on the page, in Markdown and in JSON."""

from collections.abc import Iterator, Sequence

from report.analysis.breakdown import REST, Breakdown, Ratio
from report.analysis.findings import Report
from report.analysis.groups import Group, framework_name
from report.analysis.intervals import Estimate, format_count
from report.analysis.projection import Projection, by_law
from report.analysis.runs import ABLATIONS, GRAD_SYNC
from report.analysis.scaling import WEAK
from report.analysis.sweeps import format_varied
from report.analysis.timings import Accuracy


def devices(count: int) -> str:
    return format_count(count, "device")


def group_target(report: Report, group: Group) -> str:
    """The accuracy that times of a group are to, after a space; empty without one."""
    return next((f" {t.target:g}" for t in report.times[group.title].values()), "")


def of_what(report: Report) -> str:
    """What was run, and what it all has in common, in one line."""
    runs = report.runs
    common = [v for name, v in report.common.items() if v and name != "experiment"]
    sizes = format_list([f"{size:,}" for size in sorted({r.world_size for r in runs})])
    names = " and ".join(sorted({framework_name(r.framework) for r in runs})[::-1])
    count = format_count(len(runs), "run")
    what = f"{count} of {names} on {sizes} device{'s' * (sizes != '1')}"
    if not runs:
        what = "No run that can be timed is among the folders"
        if count := len(report.scaling.skipped):
            what += f"; {count} were skipped, each with its reason under that heading"
    return "; ".join([what, *common])


def format_reasons(*reasons: str) -> str:
    """Reasons in parentheses, each once, after a space; empty without any."""
    found = "; ".join(sorted({*reasons} - {""}))
    return f" ({found})" if found else ""


def format_ratio(found: Ratio) -> str:
    """A ratio, with the reason if it has no interval."""
    return f"{found.estimate:.3f}{format_reasons(found.estimate.reason)}"


def accuracy_sentences(report: Report, group: Group) -> Iterator[str]:
    """Test accuracies of a group; of a sweep, each program's best recipe."""
    if not group.is_sweep:
        for curve in group.curves:
            ends = dict.fromkeys((curve.points[0].cell, curve.points[-1].cell))
            scores = [s for cell in ends if (s := report.accuracies.get(cell))]
            yield from (f"{group.label(curve)} {_score(score)}" for score in scores)
        return
    for name in dict.fromkeys(map(group.name_of, group.curves)):
        curves = [c for c in group.curves if group.name_of(c) == name]
        cells = [curve.points[0].cell for curve in curves]
        scores = [s for cell in cells if (s := report.accuracies.get(cell))]
        if scores:
            best = max(scores, key=lambda score: score.mean.value)
            recipe = format_varied(best.cell.setting.varied)
            yield (
                f"{name}, best of {len(scores)} recipes, {recipe}, {_score(best)}; "
                "the best of several looks better than it is"
            )


def _score(score: Accuracy) -> str:
    spread = ""
    if score.spread is not None:
        spread = f" over {score.seeds} seeds, spread {score.spread:.2g}"
    return (
        f"on {devices(score.cell.world_size)} reaches a test accuracy of "
        f"{score.mean:.4f}{spread}{format_reasons(score.mean.reason)}"
    )


def rate_sentences(group: Group) -> Iterator[str]:
    """Absolute rates of the base case and of the most devices."""
    for curve in group.curves:
        first, last = curve.points[0], curve.points[-1]
        rates = f"{first.images_per_second:,.0f} images/s"
        rates += f" on {devices(first.cell.world_size)}"
        if last is not first:
            at = devices(last.cell.world_size)
            rates += f" and {last.images_per_second:,.0f} on {at}"
        why = format_reasons(*(p.images_per_second.reason for p in curve.points))
        yield f"{group.label(curve)} trains {rates}{why}"


def scaling_sentences(report: Report, group: Group) -> Iterator[str]:
    for curve in group.curves:
        last = curve.points[-1]
        if curve.reason or last.speedup is None or last is curve.points[0]:
            yield f"{group.label(curve)}: no speed-up, {curve.reason}"
            continue
        yield (
            f"{group.label(curve)} is {last.speedup:.2f} times as fast on "
            f"{devices(last.cell.world_size)} as on {curve.base}: efficiency "
            f"{last.efficiency:.3f}{format_reasons(last.speedup.reason)}"
        )


def overhead_sentences(group: Group) -> Iterator[str]:
    """What Karp and Flatt's fraction says of each curve, as far as it is certain."""
    for curve in group.curves:
        name = "s" if curve.regime == WEAK else "e"
        points = [p for p in curve.points if p.serial_fraction is not None]
        if not points:
            continue
        first, last = points[0].serial_fraction, points[-1].serial_fraction
        assert first is not None and last is not None
        ends = f"{name}({points[-1].cell.world_size}) = {last:.3f}"
        if len(points) > 1:
            ends = f"{name}({points[0].cell.world_size}) = {first:.3f}, {ends}"
        yield f"{group.label(curve)}: {ends}: {_overhead(first, last, len(points))}"


def _overhead(first: Estimate, last: Estimate, points: int) -> str:
    if last.low is None or last.high is None:
        return f"its uncertainty is not known, {last.reason}"
    if last.low > 1:
        return "more devices take longer than they save"
    if points > 1 and first.high is not None and last.low > first.high:
        return "it rises, so an overhead grows with the devices"
    if last.low > 0:
        part = f"about {last.value:.0%}" if last.value < 1 else "most or all"
        return f"{part} of a step does not get faster with more devices"
    if last.high < 0:
        return "faster than ideal: each device has less to do, or more to do it with"
    return "indistinguishable from 0: no part that does not scale is visible"


def held_back_sentences(report: Report, group: Group) -> Iterator[str]:
    """What does not scale, and what a step of the most devices is made of."""
    yield from overhead_sentences(group)
    for curve in group.curves:
        last, label = curve.points[-1].cell, group.label(curve)
        if (found := report.breakdowns.get(last)) is not None:
            yield breakdown_sentence(found, label)
        for cost in report.data_costs:
            if cost.cell is last:
                yield (
                    f"{label}, {devices(last.world_size)}: on real data at "
                    f"{format_ratio(cost)} of the images/s on synthetic images"
                )


def breakdown_sentence(found: Breakdown, label: str) -> str:
    size, shares = found.cell.world_size, found.fractions
    parts = [f"{shares[part]:.1%} is {part}" for part in shares if part != REST]
    unmeasured = ""
    if size > 1 and ABLATIONS[GRAD_SYNC] not in shares:
        unmeasured = (
            "; what the exchange takes was not measured: that needs runs without it "
            "(study.grad_sync=[true,false])"
        )
    why = format_reasons(*(share.reason for share in shares.values()))
    return (
        f"{label}, {devices(size)}: of a step of {found.milliseconds.value:.3g} ms, "
        f"{format_list(parts)}{unmeasured}{why}"
    )


def fit_sentences(group: Group) -> Iterator[str]:
    """Each law that was fitted, and once for all why others were not."""
    without: dict[str, list[str]] = {}
    for curve in group.curves:
        label = group.label(curve)
        for fit in curve.fits:
            if fit.reason:
                without.setdefault(fit.reason, []).append(f"{label}'s {fit.law}")
                continue
            values = [f"{name} {held:.4g}" for name, held in fit.parameters.items()]
            yield (
                f"{label}, {fit.law}: {', '.join(values)}; {fit.held_out} devices, "
                f"held out, are predicted {fit.prediction_error:+.1%}"
                f"{format_reasons(*(held.reason for held in fit.parameters.values()))}"
            )
    for reason, laws in without.items():
        yield f"Not fitted, with {reason}: {format_list(laws)}"


def projection_sentence(projection: Projection, label: str) -> str:
    if projection.reason:
        return f"{label}: no projection, {projection.reason}"
    last, net = projection.points[-1], projection.interconnect
    assert net is not None
    errors = [f"{error:+.0%} on {n}" for n, error in sorted(projection.errors.items())]
    off = f"Where it was measured, the model is off by {format_list(errors) or '–'}"
    law = "".join(
        f" {fit.law}'s law, fitted to the curve, says "
        f"{by_law(fit, last.devices):,.0f} images/s on {devices(last.devices)}."
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


def format_list(words: Sequence[str]) -> str:
    """In words: "a", "a and b", "a, b and c"."""
    *most, last = words or [""]
    return f"{', '.join(most)} and {last}" if most else last
