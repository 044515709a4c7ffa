"""Sections as Markdown, for a pull request."""

from collections.abc import Iterable

from report.page import blocks, escape
from report.page.blocks import Block, Section, Table, Text


def rendered(sections: Iterable[Section]) -> str:
    """The sections but for those that explain the page; no figures."""
    lines = []
    for section in sections:
        if section.blocks and not section.page_only:
            lines.append(f"### {escape.to_markdown(section.title)}\n")
            lines += [line for block in section.blocks for line in _block(block)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _block(block: Block) -> list[str]:
    """Its lines, with the empty one that ends it."""
    match block:
        case Text():
            return [f"{_text(block)}\n"]
        case blocks.Heading():
            return [f"#### {escape.to_markdown(block.text)}\n"]
        case blocks.Items():
            return [*(f"- {_text(line)}" for line in block.lines), ""]
        case Table(wrap=True):
            pairs = (": ".join(entry.text for entry in row) for row in block.rows)
            return [*(f"- {escape.to_markdown(pair)}" for pair in pairs), ""]
        case Table():
            return [f"**{escape.to_markdown(block.caption)}**\n", *_table(block), ""]
        case blocks.Commands():
            return [*(f"- {escape.code(line)}" for line in block.lines), ""]
        case blocks.Figures() | blocks.Images():
            return []


def _text(text: Text) -> str:
    strong = f"**{escape.to_markdown(text.strong)}**" if text.strong else ""
    return f"{strong}{text.between}{escape.to_markdown(text.text)}"


def _table(table: Table) -> list[str]:
    lines = [
        [escape.to_markdown(name) for name in table.head],
        ["---:" if n in table.numbers else "---" for n, _ in enumerate(table.head)],
        *([_in_line(entry) for entry in row] for row in table.rows),
    ]
    return [f"| {' | '.join(line)} |" for line in lines]


def _in_line(entry: blocks.Entry) -> str:
    """A table's entry; within one, a stroke would end it even in code."""
    below = f" ({entry.below})" * bool(entry.below)
    return escape.to_markdown(entry.text + below).replace("|", "\\|")
