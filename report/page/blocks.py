"""What a page is made of: sections of blocks, which HTML and Markdown render alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from report.analysis.intervals import Estimate
from report.page.chart import Chart

NONE = "–"  # where there is no figure


@dataclass(frozen=True)
class Entry:
    """A table's entry: what is read, what it is sorted by, and what stands below it."""

    text: str
    value: float | str | None = None
    below: str = ""


def entry(value: Estimate | float | None, form: str) -> Entry:
    """A figure, with the interval of an estimate below it."""
    if value is None:
        return Entry(NONE, "")
    if isinstance(value, Estimate):
        return Entry(format(value.value, form), value.value, value.interval(form))
    return Entry(format(value, form), value)


@dataclass(frozen=True)
class Text:
    """A paragraph; what is strong in it comes first."""

    text: str
    strong: str = ""

    @property
    def between(self) -> str:
        """A space where the rest begins with a word, none before a colon."""
        return " " if self.strong and self.text[:1].isalnum() else ""


@dataclass(frozen=True)
class Heading:
    """Above some of a section's blocks."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences, or of terms with what they mean."""

    lines: tuple[Text, ...]


@dataclass(frozen=True)
class Table:
    """A table; on the page its columns can be sorted.

    Args:
      numbers: columns of figures, which are aligned to the right.
      wrap: whether it holds names with long texts, which Markdown has as a list.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    caption: str
    numbers: tuple[int, ...] = ()
    wrap: bool = False


@dataclass(frozen=True)
class Figures:
    """Figures side by side, each with its SVG; only a page shows them."""

    drawn: tuple[tuple[Chart, Path], ...]


@dataclass(frozen=True)
class Images:
    """Small images side by side, each a PNG and what is said of it; a page's alone."""

    shown: tuple[tuple[bytes, str], ...]


@dataclass(frozen=True)
class Commands:
    """Lines to be typed into a shell."""

    lines: tuple[str, ...]


Block = Text | Heading | Items | Table | Figures | Images | Commands


@dataclass(frozen=True)
class Section:
    """A question and what answers it; without blocks it is not shown.

    Args:
      link: its anchor.
      short: its answer in short, for the top of a page; None where it answers nothing.
      page_only: whether it explains the page, and Markdown goes without.
    """

    link: str
    title: str
    blocks: tuple[Block, ...]
    short: tuple[Block, ...] | None = None
    page_only: bool = False


def items(lines: Iterable[str | Text]) -> list[Block]:
    """A list, unless it is empty."""
    held = tuple(Text(line) if isinstance(line, str) else line for line in lines)
    return [Items(held)] if held else []


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str | Entry]],
    caption: str,
    wrap: bool = False,
) -> list[Block]:
    """A table without the columns that say nothing; none if it has no row."""
    held = [[Entry(e) if isinstance(e, str) else e for e in row] for row in rows]
    if not held:
        return []
    kept = [n for n, _ in enumerate(head) if any(row[n].text != NONE for row in held)]
    figures = {
        n for n in kept if any(isinstance(row[n].value, int | float) for row in held)
    }
    return [
        Table(
            tuple(head[n] for n in kept),
            tuple(tuple(row[n] for n in kept) for row in held),
            caption,
            tuple(place for place, n in enumerate(kept) if n in figures),
            wrap,
        )
    ]
