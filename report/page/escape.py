"""Names are the user's: how each format shows them as they are, whatever they hold."""

import csv
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# What Markdown, or GitHub in it, makes markup, links, mentions or formulas of.
ACTIVE = re.compile(r"[\\`*_\[\]<>&|#~@$]|://|www\.")
# A word and the punctuation around it; a list, a heading or a rule begins a line.
WORD = re.compile(r"([(\"]*)(.*?)([\"),.:;]*)")
BLOCK = re.compile(r"[-+=]+|\d+[.)]")
# Begins a formula, as OWASP's "CSV Injection" lists it, in full width as well.
FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def visible(text: str) -> str:
    r"""With a space for any whitespace, and a mark for what else cannot be seen.

    Such as the characters that turn the direction of all text after them.

    >>> visible("a\u202eb\nc") == "a\ufffdb c"
    True
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text
    )


def to_html(text: str) -> str:
    """As text or attribute of a page.

    >>> to_html("<b>")
    '&lt;b&gt;'
    """
    return html.escape(visible(text))


def to_markdown(text: str) -> str:
    """In one line, the words that Markdown would act on as code.

    >>> to_markdown("cnn_2 (by @everyone), 3 times")
    '`cnn_2` (by `@everyone`), 3 times'
    """
    first, *others = visible(text).split() or [""]
    first = code(first) if BLOCK.fullmatch(first) else _word(first)
    return " ".join([first, *map(_word, others)])


def _word(word: str) -> str:
    if not ACTIVE.search(word):
        return word
    found = WORD.fullmatch(word)
    assert found is not None
    before, inside, after = found.groups()
    return f"{before}{code(inside)}{after}"


def code(text: str) -> str:
    """A code span of Markdown, fenced by more backticks than it holds in a row."""
    text = visible(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " * ("`" in text)
    return f"{fence}{space}{text}{space}{fence}"


def to_csv(rows: Iterable[Sequence[Any]]) -> str:
    r"""Lines of CSV, in which no spreadsheet finds a formula.

    >>> to_csv([["\t=1+1", -1.5, None]])
    "' =1+1,-1.5,\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, made plain by a quote."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
