"""A scaling report as a page and as Markdown: its verdict, then its sections."""

from collections.abc import Iterable

from report.analysis.findings import Report
from report.page import html, markdown
from report.page.blocks import Section, Text, items
from report.page.escape import to_html
from report.page.sections import Drawn, sections, shortened
from report.page.sentences import of_what
from report.page.verdicts import parity


def page(report: Report, drawn: Iterable[Drawn]) -> str:
    """The whole page, with these figures."""
    verdict, message = parity(report)
    title, found = _title(report), sections(report, drawn)
    body = f"""<h1>{to_html(title)}</h1>
<p>{to_html(of_what(report))}</p>
<div class="verdict {verdict.replace(" ", "-")}">
<strong>Parity: {to_html(verdict)}</strong>
<p>{to_html(message)}</p></div>
{html.answers(found)}{html.in_lines(items(shortened(report)))}
{html.rendered(found)}"""
    return html.document(f"{title} ({verdict})", body)


def to_markdown(report: Report) -> str:
    """The same sections for a pull request, without figures."""
    verdict, message = parity(report)
    about = Text(f"{_title(report)}. {of_what(report)}.")
    head = Section("parity", f"Parity: {verdict}", (Text(message), about))
    return markdown.rendered([head, *sections(report)])


def _title(report: Report) -> str:
    names = sorted({c.setting.experiment for c in report.scaling.curves})
    names = names or sorted({check.experiment for check in report.checks})
    names = names or ["nothing that can be timed"]
    more = " and more" if len(names) > 3 else ""
    return f"Scaling report: {', '.join(names[:3])}{more}"
