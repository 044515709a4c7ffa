"""Parts of a page: one self-contained HTML file, which asks nothing of any network."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from report.analysis.intervals import Estimate
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


def listed(lines: Iterable[str], of: str = "ul") -> str:
    """A list of sentences; nothing without any."""
    items = "".join(f"<li>{to_html(line)}</li>" for line in lines)
    return f"<{of}>{items}</{of}>" if items else ""


@dataclass(frozen=True)
class Shown:
    """A table's cell: what is read, what it is sorted by, and what stands below it."""

    text: str
    value: float | str | None = None
    below: str = ""
    wrap: bool = False


def estimate_cell(estimate: Estimate | None, form: str) -> Shown:
    if estimate is None:
        return Shown("–", "")
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"{estimate.low:{form}} to {estimate.high:{form}}"
    return Shown(format(estimate.value, form), estimate.value, interval)


def number_cell(value: float | None, form: str) -> Shown:
    return Shown("–", "") if value is None else Shown(format(value, form), value)


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str | Shown]],
    numbers: Iterable[int] = (),
    caption: str = "",
) -> str:
    """A table whose columns are sorted by the buttons in its head.

    Args:
      numbers: columns whose cells are aligned to the right.
    """
    right = set(numbers)

    def cell(number: int, given: str | Shown) -> str:
        held = given if isinstance(given, Shown) else Shown(given)
        names = ["number"] * (number in right) + ["wrap"] * held.wrap
        attributes = f' class="{" ".join(names)}"' if names else ""
        if held.value is not None:
            attributes += f' data-value="{to_html(str(held.value))}"'
        below = f"<small>{to_html(held.below)}</small>" if held.below else ""
        return f"<td{attributes}>{to_html(held.text)}{below}</td>"

    heads = "".join(
        f'<th scope="col"{" class=number" if number in right else ""}>'
        f'<button type="button">{to_html(name)}</button></th>'
        for number, name in enumerate(head)
    )
    body = "".join(
        f"<tr>{''.join(cell(number, held) for number, held in enumerate(row))}</tr>\n"
        for row in rows
    )
    label = to_html(caption or ", ".join(head))
    title = f"<caption><span>{to_html(caption)}</span></caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f"{title}<thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )
