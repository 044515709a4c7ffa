"""Sections as one self-contained HTML file, which asks nothing of any network."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from report.page.blocks import (
    Answer,
    Block,
    Commands,
    Figures,
    Heading,
    Items,
    Pairs,
    Section,
    Shown,
    Table,
    Text,
)
from report.page.chart import Chart, to_csv
from report.page.escape import to_html

HERE = Path(__file__).parent
STYLE, SCRIPT = (HERE / f"page.{kind}" for kind in ("css", "js"))


def document(title: str, body: str) -> str:
    """A whole page, whose policy fetches nothing and runs its own script alone."""
    style, script = STYLE.read_text(), SCRIPT.read_text()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "img-src data:",
        ]
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{to_html(title)}</title>
<style>{style}</style></head><body>
{body}
<script>{script}</script></body></html>
"""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_link(content: bytes, kind: str) -> str:
    """A file as an address that is the file.

    Args:
      kind: such as "text/csv".
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def rendered(sections: Iterable[Section], images: Mapping[str, Path]) -> str:
    """The sections one after another.

    Args:
      images: SVG files of the charts, by name; charts without are not shown.
    """
    return "\n".join(
        f'<h2 id="{section.link}">{to_html(section.title)}</h2>\n'
        + blocks(section.blocks, images)
        for section in sections
    )


def blocks(held: Iterable[Block], images: Mapping[str, Path]) -> str:
    """Blocks alone; `images` as in `rendered`."""
    return "\n".join(_block(block, images) for block in held)


def answers(found: Iterable[Answer]) -> str:
    """Each question with what was found in short."""
    shown = ""
    for answer in found:
        said = "".join(
            (f"<p>{to_html(title)}</p>" if title else "") + _items(items)
            for title, items in answer.said
        )
        question = to_html(answer.question)
        if answer.link:
            question = f'<a href="#{answer.link}">{question}</a>'
        said = said or "Nothing that was measured says so."
        shown += f"<li><b>{question}</b>{said}</li>"
    return f'<ol class="short">{shown}</ol>'


def _block(block: Block, images: Mapping[str, Path]) -> str:
    match block:
        case Text():
            return f"<p>{_text(block)}</p>"
        case Heading():
            return f"<h3>{to_html(block.text)}</h3>"
        case Items():
            return _items(block)
        case Table():
            return _table(block)
        case Pairs():
            return _table(Table(block.head, block.rows, block.caption), wrap=True)
        case Commands():
            return f"<pre>{chr(10).join(map(to_html, block.lines))}</pre>"
        case Figures():
            drawn = [chart for chart in block.charts if chart.name in images]
            shown = "".join(_figure(chart, images[chart.name]) for chart in drawn)
            return f'<div class="figures">{shown}</div>' if shown else ""


def _text(text: Text) -> str:
    strong = f"<b>{to_html(text.strong)}</b>" if text.strong else ""
    return f"{strong}{text.between}{to_html(text.text)}"


def _items(block: Items) -> str:
    lines = (Text(line) if isinstance(line, str) else line for line in block.lines)
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _table(table: Table, wrap: bool = False) -> str:
    """A table whose columns are sorted by the buttons in its head."""

    def kind(number: int) -> str:
        if wrap:
            return ' class="wrap"'
        return ' class="number"' if number in table.numbers else ""

    def cell(number: int, given: str | Shown) -> str:
        held = given if isinstance(given, Shown) else Shown(given)
        key = "" if held.value is None else f' data-value="{to_html(str(held.value))}"'
        below = f"<small>{to_html(held.below)}</small>" if held.below else ""
        return f"<td{kind(number)}{key}>{to_html(held.text)}{below}</td>"

    heads = "".join(
        f'<th scope="col"{kind(number)}><button type="button">{to_html(name)}</button>'
        "</th>"
        for number, name in enumerate(table.head)
    )
    body = "".join(
        f"<tr>{''.join(cell(number, held) for number, held in enumerate(row))}</tr>\n"
        for row in table.rows
    )
    caption = to_html(table.caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
        f"<caption><span>{caption}</span></caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


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
