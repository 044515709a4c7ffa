"""The tables of a report, for readers."""

from collections import defaultdict
from collections.abc import Iterable

from report.analysis.breakdown import PARTS
from report.analysis.cells import Cell
from report.analysis.findings import Report
from report.analysis.groups import Group
from report.analysis.scaling import WEAK
from report.page.blocks import Block, Shown, estimate_cell, items, number_cell, table
from report.page.export import compiled_runs, median_of, peak_memory
from report.page.sentences import group_target, in_words
from report.page.verdicts import commit_sentences

MIB = 2**20
MOST_ROWS = 16  # of the ranks of one curve
OVER_SEEDS = (
    "Test accuracy is the mean over seeds with Student's interval, its spread their "
    "standard deviation; runs of one seed are averaged first. Images/s pool all runs"
)


def checks_table(report: Report) -> list[Block]:
    """Every pair of runs that a parity check held against each other."""
    head = (
        *("experiment", "precision", "run", "against", "loss at step 1"),
        *("worst loss", "worst weights", "verdict"),
    )
    rows = [
        [
            *(check.experiment, check.precision, c.a, c.b),
            *(
                Shown(f"{value:.1e}" if value else "0", value)
                for value in (c.first, c.worst, c.weights)
            ),
            c.verdict,
        ]
        for check in report.checks
        for c in check.comparisons
    ]
    caption = "Largest relative differences of every pair of runs; ×2: on 2 devices"
    return table(head, rows, caption, numbers=(4, 5, 6))


def accuracy_table(report: Report, group: Group) -> list[Block]:
    """A group's test accuracies over seeds, with what is to be known of them.

    Of a sweep its keys are columns, and every recipe has a row; else only cells with an
    accuracy.
    """
    head = (
        *("framework", *group.varied, "devices", "global batch", "runs", "seeds"),
        *("test accuracy", "spread over seeds", "images/s"),
        f"seconds to{group_target(report, group) or ' accuracy'}",
    )
    rows: list[list[str | Shown]] = []
    reasons: dict[str, list[str]] = defaultdict(list)
    for curve in group.curves:
        for point in curve.points:
            cell, score = point.cell, report.accuracy_of(point.cell)
            if score is None and not group.is_sweep:
                continue
            if score is not None and score.mean.reason:
                where = f"{group.label(curve)} ×{cell.world_size}"
                reasons[score.mean.reason].append(where)
            time = report.time_of(group, cell)
            rows.append(
                [
                    group.name_of(curve),
                    *(_value_cell(value) for _, value in curve.setting.varied),
                    *_counts(cell),
                    str(cell.seeds),
                    estimate_cell(score.mean if score else None, ".4f"),
                    number_cell(score.spread if score else None, ".2g"),
                    estimate_cell(point.images_per_second, ",.0f"),
                    estimate_cell(time.seconds if time else None, ".3g"),
                ]
            )
    found = table(head, rows, f"Accuracy: {group.title}")
    return [*found, *items([OVER_SEEDS, *_noted("No interval", reasons)] * bool(rows))]


def _counts(cell: Cell) -> tuple[str, str, str]:
    return str(cell.world_size), str(cell.global_batch), str(len(cell.runs))


def _value_cell(value: str) -> str | Shown:
    """A value of a sweep, sorted by its size where it is a number."""
    try:
        return Shown(value, float(value))
    except ValueError:
        return value


def _noted(what: str, reasons: dict[str, list[str]]) -> list[str]:
    return [f"{what}, {why}: {in_words(of)}" for why, of in reasons.items()]


def points_table(report: Report, group: Group) -> list[Block]:
    """A group's points, and why figures are missing from them."""
    fraction = "s(p)" if group.curves[0].regime == WEAK else "e(p)"
    to = f"to{group_target(report, group) or ' accuracy'}"
    head = (
        *("framework", "devices", "global batch", "runs", "images/s", "speed-up"),
        *("efficiency", fraction, "TFLOP/s per device", "MFU", "peak memory MiB"),
        *("compile s", "start-up s", f"seconds {to}", f"device-hours {to}"),
    )
    rows = []
    for label, point in group.points:
        cell, use = point.cell, report.utilisation(point)
        time, memory = report.time_of(group, cell), peak_memory(cell)
        rows.append(
            [
                label,
                *_counts(cell),
                estimate_cell(point.images_per_second, ",.0f"),
                estimate_cell(point.speedup, ".2f"),
                estimate_cell(point.efficiency, ".3f"),
                estimate_cell(point.serial_fraction, ".3f"),
                number_cell(use.flops.value / 1e12 if use else None, ".3g"),
                estimate_cell(use.share if use else None, "#.3g"),
                number_cell(memory / MIB if memory else None, ",.0f"),
                number_cell(median_of(compiled_runs(cell), "compile_seconds"), ".2f"),
                number_cell(median_of(cell.runs, "startup_seconds"), ".2f"),
                estimate_cell(time.seconds if time else None, ".3g"),
                number_cell(time.device_hours if time else None, ".3g"),
            ]
        )
    found = table(head, rows, f"Every point: {group.title}")
    return [*found, *items(_why_missing(report, group))]


def _why_missing(report: Report, group: Group) -> Iterable[str]:
    """Why figures of a group's points are missing, and what else to know of them."""
    for curve in group.curves:
        if curve.reason:
            yield f"{group.label(curve)}: no speed-up, {curve.reason}"
    yield from sorted(
        {
            f"{label} on {point.cell.world_size}: no interval, {reason}"
            for label, point in group.points
            if (reason := point.images_per_second.reason)
        }
    )
    for curve in group.curves:
        yield from (
            f"{group.label(curve)} on {said}" for said in commit_sentences(curve)
        )
    without: dict[str, list[str]] = defaultdict(list)
    for label, point in group.points:
        time = report.time_of(group, point.cell)
        if time is not None and time.seconds is None:
            without[time.reason].append(f"{label} ×{point.cell.world_size}")
    yield from _noted("No time to accuracy", without)
    cells = [point.cell for _, point in group.points]
    if cached := sum(len(cell.runs) - len(compiled_runs(cell)) for cell in cells):
        runs = f"{cached} run{'s' * (cached > 1)}"
        yield f"Compile s leaves out {runs} with steps from a cache"


def breakdown_table(report: Report, group: Group) -> list[Block]:
    """Where the time of a step goes; nothing where no ablation measured that."""
    found = report.breakdowns_of(group)
    parts = [part for part in PARTS if any(part in of.shares for _, of in found)]
    rows = [
        [
            label,
            str(of.cell.world_size),
            estimate_cell(of.milliseconds, ".4g"),
            *(estimate_cell(of.shares.get(part), ".1%") for part in parts),
        ]
        for label, of in found
    ]
    head = ("framework", "devices", "ms per step", *parts)
    return table(head, rows, f"Where the time of a step goes: {group.title}")


def ranks_table(report: Report, group: Group) -> list[Block]:
    """Who is waited for, on the most devices of each curve."""
    rows, some = [], ""
    for curve in group.curves:
        found = report.ranks_of(curve.points[-1].cell)
        if found is None:
            continue
        if len(found.times) > MOST_ROWS:
            some = f", the {MOST_ROWS} slowest"
        rows += [
            [
                group.label(curve),
                str(found.cell.world_size),
                "no" if found.alone else "yes",
                str(time.rank),
                estimate_cell(time.median, ".4g"),
                estimate_cell(time.over_mean, ".3f"),
                number_cell(time.slowest, ".1%"),
            ]
            for time in found.times[:MOST_ROWS]
        ]
    head = (
        *("framework", "devices", "with the exchange", "rank", "ms per step"),
        *("over the mean of all ranks", "slowest, share of windows"),
    )
    caption = f"Who is waited for{some}: {group.title}"
    return table(head, rows, caption, numbers=(1, *range(3, len(head))))
