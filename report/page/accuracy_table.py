"""A row for each cell's test accuracy over seeds; of a sweep, its keys are columns."""

from collections.abc import Sequence

from report.analysis.findings import Report
from report.analysis.groups import Group
from report.page.html import Shown, estimate_cell, number_cell
from report.page.sentences import in_words

OVER_SEEDS = (
    "Test accuracy is the mean over seeds with Student's interval, its spread their "
    "standard deviation; runs of one seed are averaged first. Images/s pool all runs"
)


def accuracy_table(
    report: Report, group: Group
) -> tuple[list[str], list[list[str | Shown]], list[str]]:
    """A group's accuracies for a reader, on the page and in Markdown alike.

    Returns:
      Its head, its rows, and what is to be known of them; no row without an accuracy,
      but for a sweep, whose every recipe has one.
    """
    times = {id(t.cell): t for t in report.times[group.title]}
    target = next((f" {t.target:g}" for t in times.values()), " accuracy")
    head = (
        *("framework", *group.varied, "devices", "global batch", "runs", "seeds"),
        *("test accuracy", "spread over seeds", "images/s", f"seconds to{target}"),
    )
    rows: list[list[str | Shown]] = []
    reasons: dict[str, list[str]] = {}
    for curve in group.curves:
        for point in curve.points:
            cell, score = point.cell, report.accuracy_of(point.cell)
            if score is None and not group.is_sweep:
                continue
            if score is not None and score.mean.reason:
                where = f"{group.label(curve)} ×{cell.world_size}"
                reasons.setdefault(score.mean.reason, []).append(where)
            time = times.get(id(cell))
            rows.append(
                [
                    group.name_of(curve),
                    *(_value_cell(value) for _, value in curve.setting.varied),
                    str(cell.world_size),
                    str(cell.global_batch),
                    str(len(cell.runs)),
                    str(cell.seeds),
                    estimate_cell(score.mean if score else None, ".4f"),
                    number_cell(score.spread if score else None, ".2g"),
                    estimate_cell(point.images_per_second, ",.0f"),
                    estimate_cell(time.seconds if time else None, ".3g"),
                ]
            )
    notes = [f"No interval, {why}: {in_words(of)}" for why, of in reasons.items()]
    head, rows = without_empty(head, rows)
    return head, rows, [OVER_SEEDS, *notes] if rows else []


def without_empty(
    head: Sequence[str], rows: Sequence[Sequence[str | Shown]]
) -> tuple[list[str], list[list[str | Shown]]]:
    """A table without the columns that have no figure: they say nothing but a name."""
    told = [n for n, _ in enumerate(head) if any(_text(row[n]) != "–" for row in rows)]
    return [head[n] for n in told], [[row[n] for n in told] for row in rows]


def _value_cell(value: str) -> str | Shown:
    """A value of a sweep, sorted by its size where it is a number."""
    try:
        return Shown(value, float(value))
    except ValueError:
        return value


def _text(cell: str | Shown) -> str:
    return cell.text if isinstance(cell, Shown) else cell
