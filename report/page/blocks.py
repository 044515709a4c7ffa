"""What a page is made of: sections of blocks, which HTML and Markdown render alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from report.analysis.intervals import Estimate
from report.page.chart import Chart

NONE = "–"  # where there is no figure


@dataclass(frozen=True)
class Shown:
    """A table's cell: what is read, what it is sorted by, and what stands below it."""

    text: str
    value: float | str | None = None
    below: str = ""


def estimate_cell(estimate: Estimate | None, form: str) -> Shown:
    if estimate is None:
        return Shown(NONE, "")
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"{estimate.low:{form}} to {estimate.high:{form}}"
    return Shown(format(estimate.value, form), estimate.value, interval)


def number_cell(value: float | None, form: str) -> Shown:
    return Shown(NONE, "") if value is None else Shown(format(value, form), value)


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

    lines: tuple[str | Text, ...]


@dataclass(frozen=True)
class Table:
    """A table; on the page its columns can be sorted.

    Args:
      numbers: columns whose cells are aligned to the right.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str | Shown, ...], ...]
    caption: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """Names with what is known of each: a table of long texts, or a list."""

    head: tuple[str, str]
    rows: tuple[tuple[str, str], ...]
    caption: str


@dataclass(frozen=True)
class Figures:
    """Figures side by side; only a page shows them."""

    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Commands:
    """Lines to be typed into a shell."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a section answers in short.

    Args:
      link: the section's.
      said: sentences under a title, which may be empty.
    """

    link: str
    question: str
    said: tuple[tuple[str, Items], ...]


Block = Text | Heading | Items | Table | Pairs | Figures | Commands


@dataclass(frozen=True)
class Section:
    """A question and what answers it.

    Args:
      link: its anchor.
      page_only: whether it explains the page, and Markdown goes without.
    """

    link: str
    title: str
    blocks: tuple[Block, ...]
    page_only: bool = False


def items(lines: Iterable[str | Text]) -> list[Block]:
    """A list, unless it is empty."""
    held = tuple(lines)
    return [Items(held)] if held else []


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str | Shown]],
    caption: str,
    numbers: Iterable[int] | None = None,
) -> list[Block]:
    """A table without the columns that say nothing; none if it has no row.

    Args:
      numbers: columns aligned to the right; by default all but the first.
    """
    held = [tuple(row) for row in rows]
    told = [n for n, _ in enumerate(head) if any(_text(row[n]) != NONE for row in held)]
    right = set(range(1, len(head)) if numbers is None else numbers)
    if not held:
        return []
    return [
        Table(
            tuple(head[n] for n in told),
            tuple(tuple(row[n] for n in told) for row in held),
            caption,
            tuple(place for place, n in enumerate(told) if n in right),
        )
    ]


def _text(cell: str | Shown) -> str:
    return cell.text if isinstance(cell, Shown) else cell
