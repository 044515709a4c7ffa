"""What a study prints: its plan before it runs, then its table."""

import statistics
from collections.abc import Mapping
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from launch.cli import say
from launch.commands import shell_line, word
from launch.cost import at_most
from launch.study_folder import StudyFolder
from launch.study_plan import Study, common_overrides, works
from recipe.study import StudyPlan, StudyRun
from report.analysis.breakdown import saved

# Axes of ablations -> the table's name of the part that they omit.
ABLATED_PARTS = {"grad_sync": "exposed", "update": "optimizer"}


def show_plan(study: Study, console: Console) -> None:
    """Print what would run, how long at most, and how long probably."""
    folder, every = StudyFolder(study.folder), works(study)
    missing, common = folder.missing(every), common_overrides(study)
    say(console, f"recipe=({' '.join(map(word, common))})")
    for work in every.values():
        text = "finished"
        if work in missing:
            text = shell_line(work, study.cluster, study.cores, common)
        say(console, f"{work.name}: {text}")
    lines = [
        *study.batches,
        f"{len(missing)} of {len(every)} to run, in this order; "
        f"{at_most(missing, study.cluster)}",
        folder.hours_left(missing, every, study.cluster),
        study.not_here
        and f"only a plan, with {study.cores} core(s) for each device: it "
        f"cannot run here: {study.not_here}",
    ]
    for line in filter(None, lines):
        say(console, line)


def table(plan: StudyPlan, rates: Mapping[StudyRun, list[float | None]]) -> Table:
    """Every configuration: how many of its repeats have finished, and their median.

    Args:
      rates: images per second of each configuration's finished repeats; None for one
        that was too short.
    """
    table = Table(title=f"study {plan.name}", box=SIMPLE_HEAD)
    table.add_column("configuration", no_wrap=True)
    table.add_column("finished", justify="right", no_wrap=True)
    table.add_column("median images/s", justify="right", no_wrap=True)
    axes = [axis for axis in ABLATED_PARTS if False in getattr(plan, axis)]
    for axis in axes:
        table.add_column(ABLATED_PARTS[axis], justify="right", no_wrap=True)
    timed = {point: [r for r in of if r] for point, of in rates.items()}
    for point, finished in rates.items():
        median = statistics.median(timed[point]) if timed[point] else None
        table.add_row(
            point.configuration,
            f"{len(finished)} of {plan.repeats}",
            f"{median:,.0f}" if median else "–",
            *(_fraction_saved(point, axis, timed) for axis in axes),
        )
    return table


def _fraction_saved(
    point: StudyRun, axis: str, timed: Mapping[StudyRun, list[float]]
) -> str:
    """The fraction of the full step's time that omitting the part saves."""
    without = timed.get(replace(point, **{axis: False}))
    if point.ablated or not timed[point] or not without:
        return "–"
    return f"{saved(timed[point], without):.0%}"
