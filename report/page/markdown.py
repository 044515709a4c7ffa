"""Sections as Markdown, for a pull request."""

from collections.abc import Iterable

from report.page import escape
from report.page.blocks import (
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


def rendered(sections: Iterable[Section]) -> str:
    """The sections but for those that explain the page; no figures."""
    lines = []
    for section in sections:
        if not section.page_only:
            lines.append(f"### {escape.to_markdown(section.title)}\n")
            lines += [line for block in section.blocks for line in _block(block)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _block(block: Block) -> list[str]:
    """Its lines, with the empty one that ends it."""
    match block:
        case Text():
            return [f"{_text(block)}\n"]
        case Heading():
            return [f"#### {escape.to_markdown(block.text)}\n"]
        case Items():
            lines = (Text(ln) if isinstance(ln, str) else ln for ln in block.lines)
            return [*(f"- {_text(line)}" for line in lines), ""]
        case Table():
            caption = f"**{escape.to_markdown(block.caption)}**\n"
            return [caption, *_table(block), ""]
        case Pairs():
            pairs = (f"{name}: {value}" for name, value in block.rows)
            return [*(f"- {escape.to_markdown(pair)}" for pair in pairs), ""]
        case Commands():
            return [*(f"- {escape.code(line)}" for line in block.lines), ""]
        case Figures():
            return []


def _text(text: Text) -> str:
    strong = f"**{escape.to_markdown(text.strong)}**" if text.strong else ""
    return f"{strong}{text.between}{escape.to_markdown(text.text)}"


def _table(table: Table) -> list[str]:
    lines = [
        [escape.to_markdown(name) for name in table.head],
        ["---:" if n in table.numbers else "---" for n, _ in enumerate(table.head)],
        *([_in_line(cell) for cell in row] for row in table.rows),
    ]
    return [f"| {' | '.join(line)} |" for line in lines]


def _in_line(cell: str | Shown) -> str:
    """A table's cell; within one, a stroke would end it even in code."""
    held = cell if isinstance(cell, Shown) else Shown(cell)
    below = f" ({held.below})" * bool(held.below)
    return escape.to_markdown(held.text + below).replace("|", "\\|")
