"""What a study shows on the screen: its plan before it runs, then its table."""

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
from launch.study_plan import Study, of_every_cell, works
from recipe.study import Cell, StudyPlan
from report.analysis.breakdown import saved

# The part of a step that an axis leaves out, as the table calls it.
SHARES = {"grad_sync": "exposed", "update": "optimizer"}


def show_plan(study: Study, console: Console) -> None:
    """What would run, how long at most, and how long it is likely to."""
    folder, every = StudyFolder(study.folder), works(study)
    missing, common = folder.missing(every), of_every_cell(study)
    say(console, f"recipe=({' '.join(map(word, common))})")
    for work in every.values():
        text = "finished"
        if work in missing:
            text = shell_line(work, study.cluster, study.cores, common)
        say(console, f"{work.name}: {text}")
    told = [
        *study.batches,
        f"{len(missing)} of {len(every)} to run, in this order; "
        f"{at_most(missing, study.cluster)}",
        folder.hours_left(missing, every, study.cluster),
        study.not_here
        and f"a plan alone, with {study.cores} core(s) for each device: here it "
        f"would not start: {study.not_here}",
    ]
    for line in filter(None, told):
        say(console, line)


def table(plan: StudyPlan, rates: Mapping[Cell, list[float | None]]) -> Table:
    """Every point: how many of its repeats are finished, and their median.

    Args:
      rates: images per second of the repeats of each point that finished; None for one
        that was too short to have any.
    """
    table = Table(title=f"study {plan.name}", box=SIMPLE_HEAD)
    table.add_column("cell", no_wrap=True)
    table.add_column("finished", justify="right", no_wrap=True)
    table.add_column("median images/s", justify="right", no_wrap=True)
    axes = [axis for axis in SHARES if False in getattr(plan, axis)]
    for axis in axes:
        table.add_column(SHARES[axis], justify="right", no_wrap=True)
    timed = {point: [r for r in of if r] for point, of in rates.items()}
    for point, finished in rates.items():
        median = statistics.median(timed[point]) if timed[point] else None
        table.add_row(
            point.point,
            f"{len(finished)} of {plan.repeats}",
            f"{median:,.0f}" if median else "–",
            *(_share(point, axis, timed) for axis in axes),
        )
    return table


def _share(point: Cell, axis: str, timed: Mapping[Cell, list[float]]) -> str:
    """Of the full step's time: what the step without that part saves."""
    without = timed.get(replace(point, **{axis: False}))
    if point.ablated or not timed[point] or not without:
        return "–"
    return f"{saved(timed[point], without):.0%}"
