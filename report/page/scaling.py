"""A scaling report as a page and as Markdown: its verdict, then its sections."""

from collections.abc import Mapping
from pathlib import Path

from report.analysis.findings import Report
from report.page import html, markdown
from report.page.blocks import Section, Text, items
from report.page.chart import Chart
from report.page.escape import to_html
from report.page.sections import answers, sections, shortened
from report.page.sentences import of_what
from report.page.verdicts import parity


def page(report: Report, figures: Mapping[str, tuple[Chart, Path]]) -> str:
    """The whole page.

    Args:
      figures: by name, each chart with its SVG.
    """
    verdict, said = parity(report)
    title = _title(report)
    found = sections(report, [chart for chart, _ in figures.values()])
    images = {name: svg for name, (_, svg) in figures.items()}
    body = f"""<h1>{to_html(title)}</h1>
<p>{to_html(of_what(report))}</p>
<div class="verdict {verdict.replace(" ", "-")}">
<strong>Parity: {to_html(verdict)}</strong>
<p>{to_html(said)}</p></div>
{html.answers(answers(report, found))}{html.blocks(items(shortened(report)), {})}
{html.rendered(found, images)}"""
    return html.document(f"{title} ({verdict})", body)


def to_markdown(report: Report) -> str:
    """The same sections for a pull request, without figures."""
    verdict, said = parity(report)
    about = Text(f"{_title(report)}. {of_what(report)}.")
    head = Section("parity", f"Parity: {verdict}", (Text(said), about))
    return markdown.rendered([head, *sections(report)])


def _title(report: Report) -> str:
    names = sorted({c.setting.experiment for c in report.scaling.curves})
    names = names or sorted({check.experiment for check in report.checks})
    names = names or ["nothing that can be timed"]
    more = " and more" if len(names) > 3 else ""
    return f"Scaling report: {', '.join(names[:3])}{more}"
