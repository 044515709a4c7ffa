"""The tables of a report, for readers."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from report.analysis.breakdown import PARTS
from report.analysis.findings import Report
from report.analysis.groups import Group
from report.analysis.intervals import format_count
from report.analysis.scaling import WEAK, Curve, Point
from report.analysis.sweeps import number_of
from report.page.blocks import Block, Entry, entry, items, table
from report.page.points import compiled_runs, point_figures
from report.page.sentences import devices, format_list, group_target
from report.parity.verdict import Comparison

MOST_ROWS = 16  # of the ranks of one curve
OVER_SEEDS = (
    "Test accuracy is the mean over seeds with Student's interval, its spread their "
    "standard deviation; runs of one seed are averaged first. Images/s pool all runs"
)
UNITS = {"flops_per_device": 1e12, "peak_memory_bytes": 2**20}  # that tables have
# Head of a column -> name of its figures in a point's row, and their format.
COUNTS = {
    "devices": ("world_size", ""),
    "global batch": ("global_batch_size", ""),
    "runs": ("repeats", ""),
}


PAIR = (
    *("run", "against", "loss at step 1", "worst loss", "worst weights", "test loss"),
    "verdict",
)


def pair(c: Comparison) -> list[str | Entry]:
    """A row of `PAIR`: two runs and how far they are apart."""

    def apart(value: float, where: str = "") -> Entry:
        return Entry(f"{value:.1e}", value, where) if value else Entry("0", value)

    return [
        *(c.a, c.b, apart(c.first), apart(c.worst, f"step {c.worst_step}")),
        *(apart(c.weights, c.worst_leaf), apart(c.test_difference), c.verdict),
    ]


def checks_table(report: Report) -> list[Block]:
    """Every pair of runs that a parity check compared."""
    rows = [
        [check.experiment, check.precision, *pair(comparison)]
        for check in report.checks
        for comparison in check.comparisons
    ]
    caption = "Largest relative differences of every pair of runs; ×2: on 2 devices"
    return table(("experiment", "precision", *PAIR), rows, caption)


def _entries(
    report: Report, group: Group, columns: dict[str, tuple[str, str]]
) -> Iterator[tuple[Curve, Point, list[Entry]]]:
    """A group's points, each with its entries in these columns."""
    times = report.times[group.title]
    for curve in group.curves:
        for point in curve.points:
            figures = point_figures(report, curve, point, times.get(point.cell))
            for name, unit in UNITS.items():
                figures[name] = figures[name] and figures[name] / unit
            entries = [entry(figures[name], form) for name, form in columns.values()]
            yield curve, point, entries


def accuracy_table(report: Report, group: Group) -> list[Block]:
    """A group's test accuracies over seeds, with notes on them.

    Of a sweep its keys are columns, and every recipe has a row; else only cells with an
    accuracy.
    """
    columns = {
        **COUNTS,
        "seeds": ("seeds", ""),
        "test accuracy": ("test_accuracy", ".4f"),
        "spread over seeds": ("test_accuracy_spread", ".2g"),
        "images/s": ("images_per_second", ",.0f"),
        f"seconds to{_target(report, group)}": ("seconds_to_accuracy", ".3g"),
    }
    rows: list[list[str | Entry]] = []
    reasons: dict[str, list[str]] = defaultdict(list)
    for curve, point, entries in _entries(report, group, columns):
        score = report.accuracies.get(point.cell)
        if score is None and not group.is_sweep:
            continue
        if score is not None and score.mean.reason:
            where = f"{group.label(curve)} ×{point.cell.world_size}"
            reasons[score.mean.reason].append(where)
        varied = (Entry(value, number_of(value)) for _, value in curve.setting.varied)
        rows.append([group.name_of(curve), *varied, *entries])
    head = ("framework", *group.varied, *columns)
    found = table(head, rows, f"Accuracy: {group.title}")
    return [*found, *items([OVER_SEEDS, *_noted("No interval", reasons)] * bool(rows))]


def _target(report: Report, group: Group) -> str:
    return group_target(report, group) or " accuracy"


def _noted(what: str, reasons: dict[str, list[str]]) -> list[str]:
    return [f"{what}, {why}: {format_list(of)}" for why, of in reasons.items()]


def points_table(report: Report, group: Group) -> list[Block]:
    """A group's points, and why figures are missing from them."""
    fraction = "s(p)" if group.curves[0].regime == WEAK else "e(p)"
    to = f"to{_target(report, group)}"
    columns = {
        **COUNTS,
        "images/s": ("images_per_second", ",.0f"),
        "speed-up": ("speedup", ".2f"),
        "efficiency": ("efficiency", ".3f"),
        fraction: ("serial_fraction", ".3f"),
        "TFLOP/s per device": ("flops_per_device", ".3g"),
        "MFU": ("mfu", "#.3g"),
        "peak memory MiB": ("peak_memory_bytes", ",.0f"),
        "compile s": ("compile_seconds", ".2f"),
        "start-up s": ("startup_seconds", ".2f"),
        f"seconds {to}": ("seconds_to_accuracy", ".3g"),
        f"device-hours {to}": ("device_hours_to_accuracy", ".3g"),
    }
    found = _entries(report, group, columns)
    rows = [[group.label(curve), *entries] for curve, _, entries in found]
    return [
        *table(("framework", *columns), rows, f"Every point: {group.title}"),
        *items(_why_missing(report, group)),
    ]


def _why_missing(report: Report, group: Group) -> Iterable[str]:
    """Why figures of a group's points are missing, and other notes on them."""
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
    for label, point in group.points:
        if len(commits := point.cell.commits) > 1:
            where = f"{label} on {devices(point.cell.world_size)}"
            yield f"{where}: runs of different commits, {format_list(commits)}"
    without: dict[str, list[str]] = defaultdict(list)
    for label, point in group.points:
        time = report.times[group.title].get(point.cell)
        if time is not None and time.seconds is None:
            without[time.reason].append(f"{label} ×{point.cell.world_size}")
    yield from _noted("No time to accuracy", without)
    cells = [point.cell for _, point in group.points]
    if cached := sum(len(cell.runs) - len(compiled_runs(cell)) for cell in cells):
        excluded = format_count(cached, "run")
        yield f"Compile s excludes {excluded} whose compiled steps came from the cache"


def breakdown_table(report: Report, group: Group) -> list[Block]:
    """Where the time of a step goes; nothing where no ablation measured that."""
    found = report.breakdowns_of(group)
    parts = [part for part in PARTS if any(part in of.fractions for _, of in found)]
    rows = [
        [
            label,
            entry(of.cell.world_size, ""),
            entry(of.milliseconds, ".4g"),
            *(entry(of.fractions.get(part), ".1%") for part in parts),
        ]
        for label, of in found
    ]
    head = ("framework", "devices", "ms per step", *parts)
    return table(head, rows, f"Where the time of a step goes: {group.title}")


def ranks_table(report: Report, group: Group) -> list[Block]:
    """Who is waited for, on the most devices of each curve."""
    rows, some = [], ""
    for curve in group.curves:
        found = report.ranks.get(curve.points[-1].cell)
        if found is None:
            continue
        if len(found.times) > MOST_ROWS:
            some = f", the {MOST_ROWS} slowest"
        rows += [
            [
                group.label(curve),
                entry(found.cell.world_size, ""),
                "no" if found.alone else "yes",
                entry(time.rank, ""),
                entry(time.median, ".4g"),
                entry(time.over_mean, ".3f"),
                entry(time.slowest, ".1%"),
            ]
            for time in found.times[:MOST_ROWS]
        ]
    head = (
        *("framework", "devices", "with the exchange", "rank", "ms per step"),
        *("over the mean of all ranks", "slowest, fraction of windows"),
    )
    caption = f"Who is waited for{some}: {group.title}"
    return table(head, rows, caption)
