"""A report as a list of sections: parity first, speed, scaling, its limits, a model."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from report.analysis.findings import MOST_GROUPS, Report
from report.analysis.groups import Group
from report.page import bandwidth
from report.page.blocks import (
    Block,
    Commands,
    Figures,
    Heading,
    Section,
    Text,
    items,
    table,
)
from report.page.chart import Chart
from report.page.environment import commands, environment_rows
from report.page.sentences import (
    accuracy_sentences,
    fit_sentences,
    held_back_sentences,
    projection_sentence,
    rate_sentences,
    scaling_sentences,
)
from report.page.tables import (
    accuracy_table,
    breakdown_table,
    checks_table,
    points_table,
    ranks_table,
)
from report.page.verdicts import (
    batch_sentences,
    check_sentence,
    comparison_sentence,
    comparison_sentences,
    compiled_sentences,
    parity,
)
from report.parity.bounds import IDENTICAL

SHORT = 4  # groups whose sentences the summary repeats
OF_SWEEPS = (accuracy_sentences, held_back_sentences)  # what answers for these as well
Drawn = tuple[Chart, Path]  # with its SVG
Blocks = Iterable[Block]


def sections(report: Report, drawn: Iterable[Drawn] = ()) -> list[Section]:
    """All sections of a report, in order, each with its answer in short."""
    of: dict[str, list[Drawn]] = {}
    for chart, svg in drawn:
        of.setdefault(chart.section, []).append((chart, svg))
    found = []
    for link, (title, make, answer) in SECTIONS.items():
        if link == bandwidth.SECTION and not report.panels:
            continue
        figures = [Figures(tuple(of[link]))] if link in of else []
        blocks = tuple(make(report, figures))
        short = None if answer is None else tuple(answer(report))
        found.append(Section(link, title, blocks, short))
    return [*found, TERMS]


def shortened(report: Report) -> Iterator[str]:
    """Which groups are missing from the answers and the figures."""
    for most, what in ((SHORT, "summarised here"), (MOST_GROUPS, "drawn")):
        if len(report.groups) > most:
            yield (
                f"Of {len(report.groups)} groups of curves the first {most} are "
                f"{what}; the tables have all."
            )


def _by_group(
    answer: Callable[[Report, Group], Iterable[str]],
) -> Callable[[Report], Blocks]:
    """The answer for each of the first groups, under its title if there are several."""

    def short(report: Report) -> Blocks:
        for group in report.groups[:SHORT]:
            if group.is_sweep and answer not in OF_SWEEPS:
                continue  # recipes each have a line in their table
            if lines := items(answer(report, group)):
                yield from [Text(group.title)] * (len(report.groups) > 1)
                yield from lines

    return short


def _parity_in_short(report: Report) -> Blocks:
    return items([f"Parity: {parity(report)[0]}, as said above."])


def _parity(report: Report, figures: Blocks) -> Blocks:
    yield from items(reason for check in report.checks for reason in check.reasons)
    yield from figures
    yield from checks_table(report)
    yield from items(map(check_sentence, report.checks))
    yield from items(batch_sentences(report))


def _accurate(report: Report, figures: Blocks) -> Blocks:
    """Trainings' test accuracies, and a table of each sweep."""
    none = True
    for group in report.groups:
        if found := accuracy_table(report, group):
            none = False
            yield Heading(group.title)
            yield from items(accuracy_sentences(report, group))
            yield from found
    if none and not report.panels:
        yield Text("No run that was evaluated on classes is among the folders.")


def _speeds(report: Report, group: Group) -> Iterator[str]:
    """Each framework's, and which is faster where that may be said."""
    yield from rate_sentences(group)
    for found in report.comparisons_in(group):
        yield comparison_sentence(found, report.comparisons)


def _fast(report: Report, figures: Blocks) -> Blocks:
    if parity(report)[0] != IDENTICAL:
        yield Text(
            "",
            "Rates of the two frameworks stand side by side here without proof that "
            "both trained the same thing: do not compare them.",
        )
    yield Text(
        "Images per second are the median over repeats, each in its own process. Their "
        "95 % intervals are bars and bands in the figures, small print in the tables, "
        "and in parentheses in sentences. Those of a ratio of the two frameworks are "
        "wider, as is stated there."
    )
    yield from figures
    yield Heading("JAX against PyTorch")
    none = [Text("No configuration was run by both in the same way.")]
    yield from items(comparison_sentences(report)) or none
    if report.compiled:
        yield Heading("PyTorch compiled against eager")
        yield from items(compiled_sentences(report))


def _scales(report: Report, figures: Blocks) -> Blocks:
    yield from figures
    for group in report.scaled:
        yield from points_table(report, group)


def _holds_back(report: Report, figures: Blocks) -> Blocks:
    yield from figures
    for group in report.groups:
        lines = items([*held_back_sentences(report, group), *fit_sentences(group)])
        tables = breakdown_table(report, group) + ranks_table(report, group)
        if lines or tables:
            yield Heading(group.title)
            yield from [*lines, *tables]
    uses = [report.utilisation(point) for g in report.groups for _, point in g.points]
    reasons = sorted({use.reason for use in uses if use is not None and use.reason})
    yield from items(f"No MFU: {reason}." for reason in reasons)
    if report.breakdowns:
        yield Text(
            "The parts of a step: data is what the host took to plan batches and to "
            "place them on devices; a device that is still computing meanwhile does "
            "not wait for it. Exposed communication is how much longer a step takes "
            "than one without the exchange of gradients. What no run measured "
            "separately is in the rest; docs/study.md describes the ablations that "
            "measure more."
        )


def _projected(report: Report, group: Group) -> Iterator[str]:
    for curve in group.curves:
        yield projection_sentence(report.projection_of(curve), group.label(curve))


def _further(report: Report, figures: Blocks) -> Blocks:
    if any(report.projection_of(c).points for g in report.scaled for c in g.curves):
        yield Text(
            "It takes the step measured on one device and adds the part of the "
            "exchange (of gradients, under fsdp also of parameters) that does not hide "
            "behind computation. It knows of no data loading, host or straggler, so it "
            "is an upper bound.",
            "This is a model, not a measurement.",
        )
    yield from figures
    yield from items(
        f"{group.title}, {sentence}"
        for group in report.scaled
        for sentence in _projected(report, group)
    )
    nets = [p.interconnect for p in report.projections if p.points and p.interconnect]
    yield from items(sorted({f"{net.name}: {net.source}." for net in nets}))


def _skipped(report: Report, figures: Blocks) -> Blocks:
    rows = [(out.name, out.reason) for out in report.scaling.skipped]
    caption = "Skipped, in whole or in the part that is named"
    return table(("what", "why"), rows, caption, wrap=True) or [Text("Nothing.")]


def _where(report: Report, figures: Blocks) -> Blocks:
    rows = [(name, "; ".join(values)) for name, values in environment_rows(report)]
    yield from table(("what", "value"), rows, "Where it ran", wrap=True)
    yield from items(
        f"Study {study.name}: {len(study.cells)} runs in an order shuffled with seed "
        f"{study.order_seed}, in {study.path}"
        for study in report.studies
    )
    roots = " ".join(map(str, report.roots)) or "DIR"
    yield Text("To repeat the runs and make this page again:")
    yield Commands((*commands(report), f"python launch/report.py {roots}"))


Make = Callable[[Report, Blocks], Blocks]
# Link -> title, what it shows, and its answer in short.
SECTIONS: dict[str, tuple[str, Make, Callable[[Report], Blocks] | None]] = {
    "parity": ("Did both train the same thing?", _parity, _parity_in_short),
    "accurate": ("How accurate?", _accurate, _by_group(accuracy_sentences)),
    "fast": ("How fast?", _fast, _by_group(_speeds)),
    bandwidth.SECTION: (bandwidth.TITLE, bandwidth.section, bandwidth.short),
    "scales": ("How well does it scale?", _scales, _by_group(scaling_sentences)),
    "holds-back": ("What holds it back?", _holds_back, _by_group(held_back_sentences)),
    "further": ("What to expect further out?", _further, _by_group(_projected)),
    "skipped": ("What was skipped", _skipped, None),
    "where": ("Where, and how to repeat it", _where, None),
}
MEANINGS = {
    "Strong scaling": ": the global batch is fixed, each device's part of it shrinks.",
    "Weak scaling": ": each device's batch is fixed, the global batch grows.",
    "Speed-up": ": images/s over those of the base case, one device unless said.",
    "Efficiency": ": speed-up over devices; 1 is ideal.",
    "e(p), s(p)": ": the fraction of a step that behaves as if it did not scale (Karp "
    "and Flatt; Gustafson).",
    "runs, n": ": repeats of a point. Below 3 there is no interval; below 5 world "
    "sizes no fit.",
    "Faster": "stands only where the interval of the ratio excludes 1 for all "
    "comparisons of this page together, and the means differ as surely.",
}
FORMULAS = Text("Every formula and its source: docs/scaling.md.")
MEANT = items(Text(meaning, term) for term, meaning in MEANINGS.items())
TERMS = Section("terms", "Terms", (*MEANT, FORMULAS), page_only=True)
