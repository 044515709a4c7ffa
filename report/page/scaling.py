"""A scaling report's page: parity first, speed, scaling, its limits, and a model."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from report.analysis.breakdown import PARTS
from report.analysis.checks import Check, Comparison
from report.analysis.findings import Projection, Report
from report.analysis.groups import Group
from report.page.accuracy_table import accuracy_table
from report.page.charts import (
    FAST,
    FURTHER,
    HOLDS_BACK,
    LOSSES,
    MOST_GROUPS,
    SCALES,
    Chart,
    to_csv,
)
from report.page.environment import commands, environment_rows
from report.page.escape import to_html
from report.page.html import (
    Shown,
    data_link,
    document,
    estimate_cell,
    listed,
    number_cell,
    table,
)
from report.page.sentences import (
    accuracy_sentences,
    batch_sentences,
    check_sentence,
    claim_sentence,
    claim_sentences,
    compiled_sentences,
    fit_sentences,
    held_back_sentences,
    of_what,
    parity,
    projection_sentence,
    rate_sentences,
    scaling_sentences,
)
from report.page.table import points_table
from report.parity.bounds import IDENTICAL

MOST_ROWS = 16  # of the ranks of one curve
SHORT = 4  # groups whose sentences the summary repeats


def page(report: Report, figures: Mapping[str, tuple[Chart, Path]]) -> str:
    """The whole page.

    Args:
      figures: by name, each chart with its SVG.
    """
    verdict, said = parity(report)
    title = f"Scaling report: {_what(report)}"
    sections = (
        _short(report),
        _parity(report, figures),
        _accurate(report),
        _fast(report, figures),
        _scales(report, figures),
        _holds_back(report, figures),
        _further(report, figures),
        _left_out(report),
        _where(report),
        _terms(),
    )
    head = f"""<h1>{to_html(title)}</h1>
<p>{to_html(of_what(report))}</p>
<div class="verdict {verdict.replace(" ", "-")}">
<strong>Parity: {to_html(verdict)}</strong>
<p>{to_html(said)}</p></div>"""
    return document(f"{title} ({verdict})", "\n".join([head, *sections]))


def _what(report: Report) -> str:
    names = sorted({c.setting.experiment for c in report.scaling.curves})
    names = names or sorted({check.experiment for check in report.checks})
    names = names or ["nothing that can be timed"]
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")


def _short(report: Report) -> str:
    """The answers, with what was measured."""
    verdict, _ = parity(report)
    answers: dict[tuple[str, str], Callable[[Group], Iterable[str]]] = {
        ("accurate", "How accurate?"): partial(accuracy_sentences, report),
        ("fast", "How fast?"): lambda group: _speeds(report, group),
        ("scales", "How well does it scale?"): lambda group: (
            () if group.is_sweep else scaling_sentences(group)
        ),
        ("holds-back", "What holds it back?"): partial(held_back_sentences, report),
        ("further", "What to expect further out?"): lambda group: (
            projection_sentence(p, group.label(p.curve))
            for p in (() if group.is_sweep else _projections(report, group))
        ),
    }
    items = (
        '<li><b><a href="#parity">Did both train the same thing?</a></b>'
        f"{listed([f'Parity: {verdict}, as said above.'])}</li>"
    )
    for (link, question), say in answers.items():
        said = ""
        for group in report.groups[:SHORT]:
            title = f"<p>{to_html(group.title)}</p>" if len(report.groups) > 1 else ""
            said += f"{title}{sentences}" if (sentences := listed(say(group))) else ""
        items += (
            f'<li><b><a href="#{link}">{question}</a></b>'
            f"{said or 'Nothing that was measured says so.'}</li>"
        )
    some = [
        f"Of {len(report.groups)} groups of curves the first {most} are {what}; the "
        "tables have all."
        for most, what in ((SHORT, "told here"), (MOST_GROUPS, "drawn"))
        if len(report.groups) > most
    ]
    return f'<ol class="short">{items}</ol>{listed(some)}'


def _speeds(report: Report, group: Group) -> Iterator[str]:
    """Each framework's, and which is faster where that may be said."""
    if group.is_sweep:
        return  # a line for each recipe, which its table has
    yield from rate_sentences(group)
    inside = {id(versus) for versus in group.versus}
    for claim in report.claims:
        if id(claim.versus) in inside and not claim.withheld:
            yield claim_sentence(claim, report.claims)


def _parity(report: Report, figures: Mapping[str, tuple[Chart, Path]]) -> str:
    rows = [_parity_row(check, c) for check in report.checks for c in check.comparisons]
    shown = table(
        (
            *("experiment", "precision", "run", "against", "loss at step 1"),
            *("worst loss", "worst weights", "verdict"),
        ),
        rows,
        numbers=(4, 5, 6),
        caption="Largest relative differences of every pair of runs; ×2: on 2 devices",
    )
    return f"""<h2 id="parity">Did both train the same thing?</h2>
{listed(reason for check in report.checks for reason in check.reasons)}
{_figures(figures, LOSSES)}
{shown if rows else ""}
{listed(map(check_sentence, report.checks))}
{listed(batch_sentences(report))}
"""


def _parity_row(check: Check, comparison: Comparison) -> list[str | Shown]:
    return [
        check.experiment,
        check.precision,
        comparison.a,
        comparison.b,
        *(
            Shown(f"{value:.1e}" if value else "0", value)
            for value in (comparison.first, comparison.worst, comparison.weights)
        ),
        comparison.verdict,
    ]


def _accurate(report: Report) -> str:
    """Trainings' test accuracies, and a table of each sweep."""
    parts = ""
    for group in report.groups:
        head, rows, notes = accuracy_table(report, group)
        if rows:
            numbers = range(1, len(head))
            caption = f"Accuracy: {group.title}"
            parts += (
                f"<h3>{to_html(group.title)}</h3>"
                f"{listed(accuracy_sentences(report, group))}"
                f"{table(head, rows, numbers, caption)}{listed(notes)}"
            )
    none = "<p>No run that was evaluated on classes is among the folders.</p>"
    return f"""<h2 id="accurate">How accurate?</h2>
{parts or none}
"""


def _fast(report: Report, figures: Mapping[str, tuple[Chart, Path]]) -> str:
    verdict, _ = parity(report)
    warning = (
        ""
        if verdict == IDENTICAL
        else (
            "<p><b>Rates of the two frameworks stand side by side here without proof "
            "that they are of the same training: do not compare them.</b></p>"
        )
    )
    return f"""<h2 id="fast">How fast?</h2>
{warning}
<p>Images per second are the median over runs that were alike, each started anew. Their
95&nbsp;% intervals are bars and bands in the figures, small print in the tables and in
brackets in sentences. Those of a ratio of the two are wider, as is said there.</p>
{_figures(figures, FAST)}
<h3>JAX against PyTorch</h3>
{listed(claim_sentences(report)) or "<p>No cell was run by both in the same way.</p>"}
{"<h3>PyTorch compiled against eager</h3>" if report.compiled else ""}
{listed(compiled_sentences(report))}
"""


def _scales(report: Report, figures: Mapping[str, tuple[Chart, Path]]) -> str:
    tables = "".join(
        _points_table(report, group) for group in report.groups if not group.is_sweep
    )
    return f"""<h2 id="scales">How well does it scale?</h2>
{_figures(figures, SCALES)}
{tables}
"""


def _points_table(report: Report, group: Group) -> str:
    head, rows, reasons = points_table(report, group)
    caption = f"Every point: {group.title}"
    return table(head, rows, range(1, len(head)), caption) + listed(reasons)


def _holds_back(report: Report, figures: Mapping[str, tuple[Chart, Path]]) -> str:
    parts = []
    for group in report.groups:
        said = [*held_back_sentences(report, group), *fit_sentences(group)]
        tables = _breakdown_table(report, group) + _ranks_table(report, group)
        if said or tables:
            parts.append(f"<h3>{to_html(group.title)}</h3>{listed(said)}{tables}")
    shares = sorted(
        {
            use.reason
            for curve in report.scaling.curves
            for point in curve.points
            if (use := report.utilisation(point)) is not None and use.reason
        }
    )
    return f"""<h2 id="holds-back">What holds it back?</h2>
{_figures(figures, HOLDS_BACK)}
{"".join(parts)}
{listed(f"No MFU: {reason}." for reason in shares)}
<p>The parts of a step: data is what the host took to plan batches and to place them on
devices; a device that is still computing meanwhile does not wait for it. Exposed
communication is what a step takes longer than one without the exchange of gradients.
What no run measured apart is within the rest; docs/study.md has the arms of a study
that tell more.</p>
"""


def _breakdown_table(report: Report, group: Group) -> str:
    found = [
        (group.label(curve), parts)
        for curve in group.curves
        for point in curve.points
        if (parts := report.breakdown_of(point.cell)) is not None
    ]
    parts = [part for part in PARTS if any(part in of.shares for _, of in found)]
    rows = [
        [
            label,
            str(of.cell.world_size),
            estimate_cell(of.milliseconds, ".4g"),
            *(estimate_cell(of.shares.get(part), ".1%") for part in parts),
        ]
        for label, of in found
    ]
    head = ("framework", "devices", "ms per step", *parts)
    caption = f"Where the time of a step goes: {group.title}"
    return table(head, rows, range(1, len(head)), caption) if rows else ""


def _ranks_table(report: Report, group: Group) -> str:
    """Of the most devices of each curve."""
    rows, some = [], ""
    for curve in group.curves:
        found = report.ranks_of(curve.points[-1].cell)
        if found is None:
            continue
        if len(found.times) > MOST_ROWS:
            some = f", the {MOST_ROWS} slowest"
        rows += [
            [
                group.label(curve),
                str(found.cell.world_size),
                "no" if found.alone else "yes",
                str(time.rank),
                estimate_cell(time.median, ".4g"),
                estimate_cell(time.over_mean, ".3f"),
                number_cell(time.slowest, ".1%"),
            ]
            for time in found.times[:MOST_ROWS]
        ]
    head = (
        *("framework", "devices", "with the exchange", "rank", "ms per step"),
        *("over the mean of all ranks", "slowest, share of windows"),
    )
    caption = f"Who is waited for{some}: {group.title}"
    numbers = (1, *range(3, len(head)))
    return table(head, rows, numbers, caption) if rows else ""


def _further(report: Report, figures: Mapping[str, tuple[Chart, Path]]) -> str:
    said = [
        projection_sentence(p, f"{group.title}, {group.label(p.curve)}")
        for group in report.groups
        if not group.is_sweep
        for p in _projections(report, group)
    ]
    sources = sorted(
        {
            f"{p.interconnect.name}: {p.interconnect.source}."
            for p in report.projections
            if p.points and p.interconnect
        }
    )
    return f"""<h2 id="further">What to expect further out</h2>
<p><b>This is a model, not a measurement.</b> It takes the step measured on one device
and adds the part of the exchange (of gradients; under fsdp of parameters, too) that
does not hide behind computation. It knows of no data loading, host or straggler, so it
is an upper bound.</p>
{_figures(figures, FURTHER)}
{listed(said)}
{listed(sources)}
"""


def _projections(report: Report, group: Group) -> list[Projection]:
    of = {id(p.curve): p for p in report.projections}
    return [of[id(curve)] for curve in group.curves]


def _left_out(report: Report) -> str:
    left_out = report.scaling.left_out
    if not left_out:
        return '<h2 id="left-out">What was left out</h2><p>Nothing.</p>'
    rows = [[Shown(o.name, wrap=True), Shown(o.reason, wrap=True)] for o in left_out]
    return f"""<h2 id="left-out">What was left out</h2>
{table(("what", "why"), rows, caption="Left out, wholly or as far as is said")}
"""


def _where(report: Report) -> str:
    rows = [
        [name, Shown("; ".join(values), wrap=True)]
        for name, values in environment_rows(report)
    ]
    shown = table(("what", "value"), rows, caption="Where it ran")
    order = [
        f"Study {study.name}: {len(study.cells)} cells in an order drawn from seed "
        f"{study.order_seed}, in {study.path}"
        for study in report.studies
    ]
    lines = [*commands(report), f"python launch/report.py {_roots(report)}"]
    return f"""<h2 id="where">Where, and how to repeat it</h2>
{shown if rows else ""}
{listed(order)}
<p>Run it again, and make this page again:</p>
<pre>{chr(10).join(map(to_html, lines))}</pre>
"""


def _roots(report: Report) -> str:
    return " ".join(map(str, report.roots)) or "DIR"


def _terms() -> str:
    return """<h2 id="terms">Terms</h2>
<ul>
<li><b>Strong scaling</b>: the global batch is fixed, each device's share shrinks.
<b>Weak scaling</b>: each device's batch is fixed, the global batch grows.</li>
<li><b>Speed-up</b>: images/s over those of the base case, one device unless said.
<b>Efficiency</b>: speed-up over devices; 1 is ideal.</li>
<li><b>e(p)</b>, <b>s(p)</b>: the share of a step that behaves as if it did not scale
(Karp and Flatt; Gustafson).</li>
<li><b>runs</b>, <b>n</b>: repeats of a point. Below 3 there is no interval; below 5
world sizes no fit.</li>
<li><b>Faster</b> stands only where the interval of the ratio excludes 1 for all
comparisons of this page together, and the means differ as surely.</li>
</ul>
<p>Every formula and its source: docs/scaling.md.</p>"""


def _figures(figures: Mapping[str, tuple[Chart, Path]], section: str) -> str:
    shown = "".join(
        _figure(chart, file)
        for chart, file in figures.values()
        if chart.section == section
    )
    return f'<div class="figures">{shown}</div>' if shown else ""


def _figure(chart: Chart, file: Path) -> str:
    image = data_link(file.read_bytes(), "image/svg+xml")
    numbers = data_link(to_csv(chart).encode(), "text/csv")
    return (
        f"<figure><b>{to_html(chart.title)}</b>"
        f'<img src="{image}" alt="{to_html(f"{chart.title}. {chart.says}")}">'
        f"<figcaption>{to_html(chart.says)} "
        f'<a class="download" download="{chart.name}.csv" href="{numbers}">CSV</a>'
        "</figcaption></figure>"
    )
