"""A report as a list of sections: parity first, speed, scaling, its limits, a model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from report.analysis.findings import MOST_GROUPS, Report
from report.analysis.groups import Group
from report.analysis.projection import Projection
from report.page.blocks import (
    Answer,
    Block,
    Commands,
    Figures,
    Heading,
    Items,
    Pairs,
    Section,
    Text,
    items,
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
    claim_sentence,
    claim_sentences,
    compiled_sentences,
    parity,
)
from report.parity.bounds import IDENTICAL

SHORT = 4  # groups whose sentences the summary repeats


def sections(report: Report, charts: Sequence[Chart] = ()) -> list[Section]:
    """All that a report says, in order; a section with nothing to say is not there."""

    def figures(section: str) -> list[Block]:
        of = tuple(chart for chart in charts if chart.section == section)
        return [Figures(of)] if of else []

    found = [
        Section(
            "parity",
            "Did both train the same thing?",
            (
                *items(reason for check in report.checks for reason in check.reasons),
                *figures("parity"),
                *checks_table(report),
                *items(map(check_sentence, report.checks)),
                *items(batch_sentences(report)),
            ),
        ),
        Section("accurate", "How accurate?", tuple(_accurate(report))),
        Section("fast", "How fast?", tuple(_fast(report, figures("fast")))),
        Section(
            "scales",
            "How well does it scale?",
            (
                *figures("scales"),
                *(b for g in report.scaled for b in points_table(report, g)),
            ),
        ),
        Section(
            "holds-back",
            "What holds it back?",
            tuple(_holds_back(report, figures("holds-back"))),
        ),
        Section(
            "further",
            "What to expect further out",
            tuple(_further(report, figures("further"))),
        ),
        Section("left-out", "What was left out", _left_out(report)),
        Section("where", "Where, and how to repeat it", tuple(_where(report))),
        Section("terms", "Terms", TERMS, page_only=True),
    ]
    return [section for section in found if section.blocks]


def answers(report: Report, found: Sequence[Section]) -> list[Answer]:
    """What the sections answer, in short and with what was measured."""
    questions: dict[tuple[str, str], Callable[[Group], Iterable[str]]] = {
        ("accurate", "How accurate?"): partial(accuracy_sentences, report),
        ("fast", "How fast?"): partial(_speeds, report),
        ("scales", "How well does it scale?"): lambda group: (
            () if group.is_sweep else scaling_sentences(group)
        ),
        ("holds-back", "What holds it back?"): partial(held_back_sentences, report),
        ("further", "What to expect further out?"): lambda group: (
            projection_sentence(p, group.label(p.curve))
            for p in _projections(report, group)
        ),
    }
    links = {section.link for section in found}
    verdict, _ = parity(report)
    same = Items((f"Parity: {verdict}, as said above.",))
    short = [
        Answer(
            "parity" if "parity" in links else "",
            "Did both train the same thing?",
            (("", same),),
        )
    ]
    several = len(report.groups) > 1
    for (link, question), say in questions.items():
        said = [(group, tuple(say(group))) for group in report.groups[:SHORT]]
        told = tuple((g.title if several else "", Items(s)) for g, s in said if s)
        short.append(Answer(link if link in links else "", question, told))
    return short


def shortened(report: Report) -> Iterator[str]:
    """Which groups the answers and the figures go without."""
    for most, what in ((SHORT, "told here"), (MOST_GROUPS, "drawn")):
        if len(report.groups) > most:
            yield (
                f"Of {len(report.groups)} groups of curves the first {most} are "
                f"{what}; the tables have all."
            )


def _speeds(report: Report, group: Group) -> Iterator[str]:
    """Each framework's, and which is faster where that may be said."""
    if group.is_sweep:
        return  # a line for each recipe, which its table has
    yield from rate_sentences(group)
    for claim in report.claims_in(group):
        yield claim_sentence(claim, report.claims)


def _projections(report: Report, group: Group) -> list[Projection]:
    if group.is_sweep:
        return []
    return [report.projection_of(curve) for curve in group.curves]


def _accurate(report: Report) -> Iterator[Block]:
    """Trainings' test accuracies, and a table of each sweep."""
    none = True
    for group in report.groups:
        if found := accuracy_table(report, group):
            none = False
            yield Heading(group.title)
            yield from items(accuracy_sentences(report, group))
            yield from found
    if none:
        yield Text("No run that was evaluated on classes is among the folders.")


def _fast(report: Report, figures: list[Block]) -> Iterator[Block]:
    if parity(report)[0] != IDENTICAL:
        yield Text(
            "",
            "Rates of the two frameworks stand side by side here without proof that "
            "they are of the same training: do not compare them.",
        )
    yield Text(
        "Images per second are the median over runs that were alike, each started "
        "anew. Their 95 % intervals are bars and bands in the figures, small print in "
        "the tables and in brackets in sentences. Those of a ratio of the two are "
        "wider, as is said there."
    )
    yield from figures
    yield Heading("JAX against PyTorch")
    if report.claims:
        yield from items(claim_sentences(report))
    else:
        yield Text("No cell was run by both in the same way.")
    if report.compiled:
        yield Heading("PyTorch compiled against eager")
        yield from items(compiled_sentences(report))


def _holds_back(report: Report, figures: list[Block]) -> Iterator[Block]:
    yield from figures
    for group in report.groups:
        said = [*held_back_sentences(report, group), *fit_sentences(group)]
        tables = breakdown_table(report, group) + ranks_table(report, group)
        if said or tables:
            yield Heading(group.title)
            yield from items(said)
            yield from tables
    uses = [report.utilisation(point) for g in report.groups for _, point in g.points]
    reasons = sorted({use.reason for use in uses if use is not None and use.reason})
    yield from items(f"No MFU: {reason}." for reason in reasons)
    if report.breakdowns:
        yield Text(
            "The parts of a step: data is what the host took to plan batches and to "
            "place them on devices; a device that is still computing meanwhile does "
            "not wait for it. Exposed communication is what a step takes longer than "
            "one without the exchange of gradients. What no run measured apart is "
            "within the rest; docs/study.md has the arms of a study that tell more."
        )


def _further(report: Report, figures: list[Block]) -> Iterator[Block]:
    found = [(g, p) for g in report.groups for p in _projections(report, g)]
    if any(p.points for _, p in found):
        yield Text(
            "It takes the step measured on one device and adds the part of the "
            "exchange (of gradients; under fsdp of parameters, too) that does not hide "
            "behind computation. It knows of no data loading, host or straggler, so it "
            "is an upper bound.",
            "This is a model, not a measurement.",
        )
    yield from figures
    yield from items(
        projection_sentence(p, f"{group.title}, {group.label(p.curve)}")
        for group, p in found
    )
    yield from items(
        sorted(
            {
                f"{p.interconnect.name}: {p.interconnect.source}."
                for p in report.projections
                if p.points and p.interconnect
            }
        )
    )


def _left_out(report: Report) -> tuple[Block, ...]:
    rows = tuple((out.name, out.reason) for out in report.scaling.left_out)
    caption = "Left out, wholly or as far as is said"
    return (Pairs(("what", "why"), rows, caption) if rows else Text("Nothing."),)


def _where(report: Report) -> Iterator[Block]:
    rows = tuple((n, "; ".join(values)) for n, values in environment_rows(report))
    if rows:
        yield Pairs(("what", "value"), rows, "Where it ran")
    yield from items(
        f"Study {study.name}: {len(study.cells)} cells in an order drawn from seed "
        f"{study.order_seed}, in {study.path}"
        for study in report.studies
    )
    roots = " ".join(map(str, report.roots)) or "DIR"
    yield Text("Run it again, and make this page again:")
    yield Commands((*commands(report), f"python launch/report.py {roots}"))


MEANINGS = {
    "Strong scaling": ": the global batch is fixed, each device's share shrinks.",
    "Weak scaling": ": each device's batch is fixed, the global batch grows.",
    "Speed-up": ": images/s over those of the base case, one device unless said.",
    "Efficiency": ": speed-up over devices; 1 is ideal.",
    "e(p), s(p)": ": the share of a step that behaves as if it did not scale (Karp and "
    "Flatt; Gustafson).",
    "runs, n": ": repeats of a point. Below 3 there is no interval; below 5 world "
    "sizes no fit.",
    "Faster": "stands only where the interval of the ratio excludes 1 for all "
    "comparisons of this page together, and the means differ as surely.",
}
TERMS: tuple[Block, ...] = (
    Items(tuple(Text(meaning, term) for term, meaning in MEANINGS.items())),
    Text("Every formula and its source: docs/scaling.md."),
)
