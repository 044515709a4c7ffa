"""Sections as one self-contained HTML file, which asks nothing of any network."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from report.page import blocks
from report.page.blocks import Block, Section, Table, Text
from report.page.chart import Chart, to_csv
from report.page.escape import to_html

HERE = Path(__file__).parent


def document(title: str, body: str) -> str:
    """A whole page, whose policy fetches nothing and runs its own script alone."""
    style, script = ((HERE / f"page.{kind}").read_text() for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; img-src data:"
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


def rendered(sections: Iterable[Section]) -> str:
    """The sections one after another."""
    return "\n".join(
        f'<h2 id="{section.link}">{to_html(section.title)}</h2>\n'
        + in_lines(section.blocks)
        for section in sections
        if section.blocks
    )


def in_lines(held: Iterable[Block]) -> str:
    """Blocks alone."""
    return "\n".join(map(_block, held))


def answers(sections: Iterable[Section]) -> str:
    """Each question with what was found in short."""
    found = ""
    for section in sections:
        if section.short is not None:
            question = to_html(section.title)
            if section.blocks:
                question = f'<a href="#{section.link}">{question}</a>'
            short = "".join(map(_block, section.short))
            short = short or "No measurement answers this."
            found += f"<li><b>{question}</b>{short}</li>"
    return f'<ol class="short">{found}</ol>'


def _block(block: Block) -> str:
    match block:
        case Text():
            return f"<p>{_text(block)}</p>"
        case blocks.Heading():
            return f"<h3>{to_html(block.text)}</h3>"
        case blocks.Items():
            lines = "".join(f"<li>{_text(line)}</li>" for line in block.lines)
            return f"<ul>{lines}</ul>"
        case Table():
            return _table(block)
        case blocks.Commands():
            return f"<pre>{chr(10).join(map(to_html, block.lines))}</pre>"
        case blocks.Figures():
            figures = "".join(_figure(*drawn) for drawn in block.drawn)
            return f'<div class="figures">{figures}</div>'
        case blocks.Images():
            images = "".join(_image(*shown) for shown in block.shown)
            return f'<ul class="images">{images}</ul>'


def _text(text: Text) -> str:
    strong = f"<b>{to_html(text.strong)}</b>" if text.strong else ""
    return f"{strong}{text.between}{to_html(text.text)}"


def _table(table: Table) -> str:
    """A table whose columns are sorted by the buttons in its head."""
    kinds = [
        ' class="wrap"' * table.wrap or ' class="number"' * (number in table.numbers)
        for number, _ in enumerate(table.head)
    ]

    def cell(kind: str, entry: blocks.Entry) -> str:
        value, below = entry.value, entry.below
        key = "" if value is None else f' data-value="{to_html(str(value))}"'
        small = f"<small>{to_html(below)}</small>" if below else ""
        return f"<td{kind}{key}>{to_html(entry.text)}{small}</td>"

    heads = "".join(
        f'<th scope="col"{kind}><button type="button">{to_html(name)}</button></th>'
        for kind, name in zip(kinds, table.head, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(cell, kinds, row))}</tr>\n" for row in table.rows)
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
        f'<img src="{image}" alt="{to_html(f"{chart.title}. {chart.caption}")}">'
        f"<figcaption>{to_html(chart.caption)} "
        f'<a class="download" download="{chart.name}.csv" href="{numbers}">CSV</a>'
        "</figcaption></figure>"
    )


def _image(png: bytes, said: str) -> str:
    source = data_link(png, "image/png")
    return f'<li><img src="{source}" alt="">{to_html(said)}</li>'
