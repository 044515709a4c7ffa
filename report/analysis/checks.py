"""Parity checks and studies that lie among the runs.

A speed of one framework over the other is claimed where a check of the same workload,
data, precision and strategy compared both and found them identical; nowhere else.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.errors import RecordError
from record.disk import parse_json, read_text
from record.run import read_all_rows, read_environment, read_summary
from report.analysis.cells import Cell, Setting
from report.analysis.groups import framework_name
from report.analysis.hardware import commit_name, device_name
from report.analysis.recipes import Recipe, read_recipe
from report.analysis.runs import (
    DAMAGE,
    Skipped,
    config_values,
    read_sane_summary,
    replays_cuda_graphs,
)
from report.parity.bounds import PASSES, worst
from report.parity.verdict import Comparison, checked_verdict

MISSING = "not checked"
FACTS = ("experiment", "precision", "data_fingerprint", "decided_by")


@dataclass(frozen=True)
class LossCurve:
    """A run's training loss of every step, from 1; empty with a reason."""

    label: str
    framework: str
    losses: tuple[float, ...]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A parity check's verdict, and what was checked.

    Args:
      path: its folder, with the runs that it compared.
      stated: its verdict as it stands above its comparisons.
      runs: their folders, without controls; curves: their losses.
      recipe: of them.
      commits: that they were run at.
      compiled: whether PyTorch's were, as JAX's always are; cuda_graphs: and replayed
        as such.
      global_batch_size: examples of a step of theirs.
      devices: kinds of theirs.
    """

    path: Path
    experiment: str
    precision: str
    parallel: str
    data_fingerprint: str
    stated: str
    compiled: bool
    cuda_graphs: bool
    decided_by: str
    commits: tuple[str, ...]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    runs: tuple[Path, ...]
    recipe: Recipe = field(repr=False)
    global_batch_size: int
    devices: tuple[str, ...]
    curves: tuple[LossCurve, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """What was checked, for people."""
        compiled = "max" if self.cuda_graphs else "true"
        return (
            f"{self.experiment} in {self.precision}, parallel={self.parallel}"
            f"{f' and compile={compiled}' * self.compiled}"
        )

    @property
    def verdict(self) -> str:
        """The stated one, or a worse one of any comparison."""
        return worst([self.stated, *(c.verdict for c in self.comparisons)])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not identical: what differs, and what could not be judged."""
        found = tuple(
            f"{c.a} against {c.b}: {reason}"
            for c in self.comparisons
            for reason in (*c.broken, *c.unseen)
        )
        if not found and self.verdict not in PASSES:
            return (f"{self.path} says {self.verdict} and gives no reason",)
        return found

    def is_called_like(self, cell: Cell) -> bool:
        """Whether a reader would take it for a check of a cell."""
        names = ("experiment", "precision", "parallel")
        same = all(getattr(self, n) == getattr(cell.setting, n) for n in names)
        return same and self._is_compiled_like(cell.setting)

    def _is_compiled_like(self, setting: Setting) -> bool:
        asked = setting.compiled, setting.cuda_graphs
        return (self.compiled, self.cuda_graphs) == asked or setting.framework == "jax"

    def differences(self, cell: Cell, recipe: Recipe) -> list[str]:
        """How a cell differs from what was checked; empty if the check covers it."""
        setting = cell.setting
        alike = {
            "frameworks": any(c.kind != "world sizes" for c in self.comparisons),
            "recipe, its length, batch and seed aside": (
                self.recipe.workload == recipe.workload
            ),
            "data (by its fingerprint)": (
                self.data_fingerprint == cell.runs[0].data_fingerprint
            ),
            "precision": self.precision == setting.precision,
            "parallel": self.parallel == setting.parallel,
            "compile": self._is_compiled_like(setting),
        }
        return [part for part, same in alike.items() if not same]


def read_check(folder: Path) -> Check:
    """One check's verdict and what was checked.

    Raises:
      RecordError: naming what is missing or damaged, also in its runs: a verdict that
        can no longer be verified does not count.
    """
    file = folder / "parity.json"
    held = parse_json(read_text(file), file)
    try:
        comparisons = tuple(map(Comparison.from_json, held["comparisons"]))
        facts = {name: str(held[name]) for name in FACTS}
        stated, of = checked_verdict(held["verdict"]), str(held["config_hash"])
        notes = tuple(map(str, held["notes"]))
    except (*DAMAGE, AttributeError) as error:
        raise RecordError(f"{file} is not a parity verdict: {error!r}") from error
    if not comparisons:
        raise RecordError(f"{file} compares nothing")
    runs = [p.parent for p in sorted(folder.glob("*/summary.json"))]
    trainings = [
        run for run in runs if not config_values(run, perturb_seed=0)["perturb_seed"]
    ]
    summaries = {run: read_sane_summary(run) for run in trainings}
    of_it = [r for r, s in summaries.items() if s["config_hash"] == of]
    compared = {label for c in comparisons for label in (c.a, c.b)}
    if not of_it and all(c.kind == "runs" for c in comparisons):
        raise RecordError(
            f"{folder} compared two existing runs, whose folders are not in it; a "
            "report needs a whole check: python launch/parity.py experiment=..."
        )
    if len(of_it) != len(compared):
        raise RecordError(
            f"{file} compared {', '.join(sorted(compared))}, but {len(of_it)} such "
            "run folders lie beside it"
        )
    environments = [read_environment(run) for run in of_it]
    pytorchs = [s for s in summaries.values() if s["framework"] == "torch"]
    return Check(
        path=folder,
        parallel=summaries[of_it[0]]["parallel"],
        compiled=any(s["compiled"] for s in pytorchs if s["config_hash"] == of),
        cuda_graphs=any(
            replays_cuda_graphs(summaries[run]["framework"], environment)
            for run, environment in zip(of_it, environments, strict=True)
        ),
        commits=tuple(commit_name(environment, 12) for environment in environments),
        stated=stated,
        notes=notes,
        comparisons=comparisons,
        runs=tuple(of_it),
        recipe=read_recipe(of_it[0]),
        global_batch_size=summaries[of_it[0]]["global_batch_size"],
        devices=tuple(sorted(set(map(device_name, environments)))),
        curves=tuple(_checked_curve(run, summaries[run]) for run in of_it),
        **facts,
    )


def check_of(
    cell: Cell, recipe: Recipe | None, checks: Sequence[Check]
) -> Check | None:
    """The check that answers for a cell; of several, the one with the worst verdict."""
    if recipe is None:
        return None
    found = [check for check in checks if not check.differences(cell, recipe)]
    verdict = worst(check.verdict for check in found)
    return next((check for check in found if check.verdict == verdict), None)


def _checked_curve(run: Path, summary: dict[str, Any]) -> LossCurve:
    framework, ranks = summary["framework"], summary["processes"]
    label = f"{framework_name(framework)} ×{summary['world_size']}"
    label += f", {ranks} processes" * (ranks > 1)
    return LossCurve(label, framework, _losses(run))


def read_loss_curve(run: Path, label: str, framework: str) -> LossCurve:
    """A run's losses, or why they cannot be drawn."""
    try:
        return LossCurve(label, framework, _losses(run))
    except RecordError as error:
        return LossCurve(label, framework, (), str(error))


def _losses(run: Path) -> tuple[float, ...]:
    """The training loss of every step, from 1.

    Raises:
      RecordError: if one is missing.
    """
    rows = read_all_rows(run, read_summary(run)["steps"])
    return tuple(float(row["loss"]) for row in rows if row["kind"] == "step")


@dataclass(frozen=True)
class Study:
    """What `study.json` says.

    Args:
      command: that started it, as typed in a shell.
      cells: names of its run folders, in the order in which they were to run.
      order_seed: the seed that shuffled that order.
    """

    path: Path
    name: str
    command: str
    cells: tuple[str, ...]
    order_seed: int


def read_study(folder: Path) -> tuple[Study, list[Skipped]]:
    """A study's plan, and each of its cells that left no run folder.

    Raises:
      RecordError: if `study.json` is missing or damaged.
    """
    file = folder / "study.json"
    held = parse_json(read_text(file), file)
    try:
        names = tuple(str(cell["name"]) for cell in held["order"])
        command = shlex.join(["python", *map(str, held["command"])])
        study = Study(
            folder, str(held["name"]), command, names, int(held["order_seed"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{file} is not a study's plan: {error!r}") from error
    ended = _ended(folder / "cells.jsonl")
    skipped = []
    for name in names:
        if not (folder / name).is_dir():
            reason = "is planned in study.json and was not run"
            if name in ended:
                reason = f"{ended[name]} before it left a run folder, see {name}.log"
            skipped.append(Skipped(str(folder / name), reason))
    return study, skipped


def _ended(file: Path) -> dict[str, str]:
    """Run folder -> how its last start ended."""
    if not file.exists():
        return {}
    rows: list[Any] = [
        parse_json(line, f"{file} line {number}")
        for number, line in enumerate(read_text(file).splitlines(), start=1)
    ]
    try:
        return {str(row["name"]): str(row["status"]) for row in rows}
    except (KeyError, TypeError) as error:
        raise RecordError(f"{file} is not a study's: {error!r}") from error
