"""Run a study: one recipe at every point of a plan, several times, nothing beside it.

    python launch/study.py study=demo
    python launch/study.py study=strong cluster=slurm cluster.gpus_per_node=4

Started again it runs what is missing. Leaves study.json (the plan and its order),
cells.jsonl (what ended when and how), the parity check and every run in `run.dir`.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import json
import statistics
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.cli import alone_main
from launch.cluster import (
    Work,
    after_earlier,
    job_of,
    run,
    submitit_log,
)
from launch.commands import shell_line, word
from launch.cost import (
    PARITY,
    at_most,
    is_parity,
    likely,
    seconds_taken,
)
from launch.nodes import check_machine, check_plan
from launch.overrides import refusal, typed_config
from launch.quiet import Quiet
from launch.same_study import differences
from launch.trainings import (
    SCRIPTS,
    check_sizes,
    command,
    own_files,
    quoted,
    said,
    typed_keys,
)
from recipe.config import Config
from recipe.errors import ConfigError, RecordError
from recipe.parity import ParityConfig
from recipe.processes import Processes
from recipe.sharding import check_shards
from recipe.study import (
    AXES,
    Cell,
    StudyConfig,
    StudyPlan,
    cells,
    check_batch,
    check_sizes_of,
    other_batches,
    points,
    timing,
)
from recipe.world import check_world
from record.disk import locked, to_json, write_whole
from record.folder import check_folder
from record.run import read_summary
from record.weights import check_weights
from report.breakdown import saved
from report.parity import PASSES
from report.sentences import shown

KINDS = ("gpu_type", "constraint")  # of its cluster, where they are asked for
# Keys of a run that are not the recipe's in a study, and what to do instead.
DECIDED = {
    "platform": "cluster.gpus_per_node decides; 0 is the CPU",
    "parallel.cores_per_device": "cluster.cores_per_device decides",
    "train.timed_seconds": "each cell has study.timed_seconds=SECONDS; null is none",
    "profile": "a trace takes time; take one of a run alone",
}
# The part of a step that an axis leaves out, as the table calls it.
SHARES = {"exchange": "exposed", "update": "optimizer"}


def recipe_overrides(config: StudyConfig) -> list[str]:
    """What every cell is asked for: the plan's recipe, then what was typed for it.

    Raises:
      ConfigError: if a key was typed that is an axis, or each cell's own.
    """
    overrides = list(config.study.recipe)
    for typed in typed_keys():
        key = typed.lstrip("+").partition("=")[0]
        axis = next((axis for axis, of in AXES.items() if of == key), None)
        if axis and getattr(config.study, axis):
            raise ConfigError(
                f"{typed}: that is an axis of the study; write study.{axis}=[...]"
            )
        if key in DECIDED:
            raise ConfigError(f"{typed}: {DECIDED[key]}")
        own = ("study", "cluster", "dry_run", "run")
        if key.partition(".")[0] not in own and key != "data.root":
            overrides.append(typed)
    # Relative to where the study was started, which is not where a cell will be.
    overrides += own_files(config)
    platform = "gpu" if config.cluster.gpus_per_node else "cpu"
    return [*overrides, f"platform={platform}"]


def composed(
    overrides: list[str], schema: type[Config], config_name: str = "config"
) -> Any:
    """The config that a run, or a parity check, with these overrides has, checked.

    Raises:
      ConfigError: what the run would be refused with.
    """
    ConfigStore.instance().store("schema", node=schema)
    try:
        config = compose(config_name, overrides)
    except HydraException as error:
        raise refusal(error, schema) from error
    return typed_config(config, schema)


def check_cells(plan: StudyPlan, recipe: list[str]) -> Config:
    """Refuse a plan of which any cell would be refused; the recipe's own config.

    Raises:
      ConfigError: naming the cell.
    """
    if not points(plan):
        raise ConfigError("study.parallel=[pmap] is JAX's alone; add jax to framework")
    alone = composed(recipe, Config)
    if alone.data.name == "synthetic" and len(plan.data) > 1:
        raise ConfigError(
            f"study.data={plan.data}: the recipe's own data is synthetic already, so "
            "both are the same; leave study.data at [real], or take real data"
        )
    batch = alone.train.global_batch, plan.regime, alone.train.accumulate
    for point in points(plan):
        try:
            own = point.overrides(*batch)
            config = composed([*recipe, *own, *timing(plan)], Config)
            check_weights(config)
            check_world(config, Processes())
            check_shards(config, Processes())
        except ConfigError as error:
            raise ConfigError(f"cell {point.point}: {error}") from error
    return alone


class Study:
    """A checked study and its folder."""

    def __init__(self, config: StudyConfig):
        plan, cluster = config.study, config.cluster
        self.config, self.plan, self.cluster = config, plan, cluster
        check_plan(cluster, plan.world_size)
        self.not_here = ""  # why it cannot run on this machine; a plan on paper may
        self.cores = self._cores()
        self.recipe = recipe_overrides(config)
        self.alone = check_cells(plan, self.recipe).train
        # The same wherever a cell starts; no part of what makes a study that study.
        root = quoted(Path(config.data.root).absolute())
        self.overrides = [*self.recipe, f"data.root={root}"]
        folder = config.run.dir or f"runs/study-{plan.name}"
        self.folder = Path(folder).absolute()
        self.order = cells(plan)
        # Of parity checks.
        models = plan.model or [None]
        self.kinds = list(product(models, plan.precision, plan.parallel, plan.compile))
        self.checked_at: dict[str, int] = {}  # global batch of each parity check
        self._check_parity()
        self.description = {
            "schema_version": 1,
            "name": plan.name,
            "regime": plan.regime,
            "recipe": self.recipe,
            "parity": list(plan.parity),
            "order": [asdict(cell) | {"name": cell.name} for cell in self.order],
            "order_seed": plan.order_seed,
            "timed_seconds": plan.timed_seconds,
            "cluster": {
                "name": cluster.name,
                "gpus_per_node": cluster.gpus_per_node,
                "devices_per_node": cluster.devices_per_node,
                "cores_per_device": self.cores,
                "exclusive": cluster.exclusive,
                **{k: kind for k in KINDS if (kind := getattr(cluster, k)) is not None},
            },
        }
        self.begun = self._begun()
        self.busy: dict[str, float] = {}  # share of cores that others used, by cell

    def _cores(self) -> int:
        """Of each device; 1 where only the machine that it is to run on would know."""
        try:
            return check_machine(self.cluster, self.plan.world_size)
        except ConfigError as error:
            if not self.config.dry_run:
                raise
            self.not_here = str(error)
            return self.cluster.cores_per_device or 1

    def _begun(self) -> bool:
        """Whether the folder holds this very study already.

        Raises:
          ConfigError, RecordError: if it holds anything else.
        """
        file = self.folder / "study.json"
        if not file.exists():
            self.config.run.dir = str(self.folder)
            check_folder(self.config)
            return False
        try:
            held = json.loads(file.read_text())
            if self.not_here:
                self.cores = int(held["cluster"]["cores_per_device"])
                self.description["cluster"]["cores_per_device"] = self.cores
            other = differences(held, self.description)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{file} is no study's: {error!r}") from error
        if other:
            raise ConfigError(
                f"run.dir={self.folder} holds another study ({'; '.join(other)}); "
                "choose another run.dir, or ask for that study again"
            )
        return True

    def _check_parity(self) -> None:
        """Refuse a parity check that would be refused, or leave no verdict.

        Raises:
          ConfigError: naming it.
        """
        for kind in self.kinds:
            work = self._parity(*kind)
            _, _, *overrides = work.command
            try:
                check = composed(overrides, ParityConfig, "parity")
                if check.trace is not None or check.a is not None:
                    raise ConfigError(
                        "trace=, a= and b= leave no verdict on the study's recipe; "
                        "take them out of study.parity, and give them to parity.py"
                    )
                fit, most = self.cluster.devices_per_node, max(check.world_sizes)
                if self.cluster.name == "slurm" and most > fit:
                    raise ConfigError(
                        f"world_sizes={check.world_sizes} of study.parity do not fit "
                        f"one node of {fit} devices, where a check's processes all run"
                    )
                check_sizes(check)
                self.checked_at[work.name] = check.train.global_batch
            except ConfigError as error:
                raise ConfigError(f"cell {work.name}: {error}") from error

    def works(self) -> dict[str, Work]:
        """The parity checks, then the cells in their order."""
        works = [self._parity(*kind) for kind in self.kinds]
        works += [self._cell(cell) for cell in self.order]
        return {work.name: work for work in works}

    def _of_all(self) -> list[str]:
        """What every cell is asked for, but no parity check."""
        pinned = f"parallel.cores_per_device={self.cores}"
        return [*self.overrides, *timing(self.plan), pinned]

    def _cell(self, cell: Cell) -> Work:
        size = cell.world_size
        overrides = [
            *self._of_all(),
            *cell.overrides(
                self.alone.global_batch, self.plan.regime, self.alone.accumulate
            ),
            f"run.dir={quoted(self.folder / cell.name)}",
        ]
        return Work(
            name=cell.name,
            command=command(cell.framework, size, overrides),
            task=[sys.executable, SCRIPTS[cell.framework], *overrides],
            devices=size,
            tasks=size,
            log=self.folder / f"{cell.name}.log",
        )

    def _parity(
        self, model: str | None, precision: str, parallel: str, compiled: bool
    ) -> Work:
        """Of what fits one node, since parity starts its own processes."""
        fit = self.cluster.devices_per_node if self.cluster.name == "slurm" else None
        sizes = check_sizes_of(self.plan, fit)
        batch = check_batch(
            self.plan, self.alone.global_batch, self.alone.accumulate, sizes
        )
        # Its own number of steps, unless it is given: its bounds are for that many.
        own = ("steps=", "epochs=", "evaluate_every_epochs=", "global_batch=")
        own = tuple(f"train.{key}" for key in own)
        parts = [PARITY, *([model] if model else []), precision, parallel]
        name = "-".join([*parts, *["compiled"] * compiled])
        parity = [
            *(sys.executable, "launch/parity.py"),
            *(o for o in self.overrides if not o.startswith(own)),
            f"precision={precision}",
            f"parallel={parallel}",
            *([f"model={model}"] if model else []),
            *["compile=true"] * compiled,
            f"train.global_batch={batch}",
            f"world_sizes={sizes}".replace(" ", ""),
            "jax_layouts=[processes]",
            *self.plan.parity,
            f"run.dir={quoted(self.folder / name)}",
        ]
        log = self.folder / f"{name}.log"
        devices = max(sizes, default=1)
        return Work(name, parity, parity, devices=devices, tasks=1, log=log)

    def finished(self, name: str) -> bool:
        """Whether a cell, or a parity check, has come to its end."""
        if is_parity(name):
            return (self.folder / name / "parity.json").exists()
        try:
            return read_summary(self.folder / name)["status"] == "finished"
        except RecordError:
            return False

    def different(self) -> list[str]:
        """Parity checks that found a difference."""
        names = [work.name for work in self.works().values() if is_parity(work.name)]
        files = {name: self.folder / name / "parity.json" for name in names}
        return [
            name
            for name, file in files.items()
            if file.exists() and json.loads(file.read_text())["verdict"] not in PASSES
        ]

    def put_aside(self, work: Work) -> None:
        """Move what a start that was cut short left, for the cell to begin anew."""
        number = 1
        left = [p for p in (self.folder / work.name, work.log) if p.exists()]
        while left and (self.folder / "unfinished" / f"{work.name}-{number}").exists():
            number += 1
        for path in left:
            aside = self.folder / "unfinished" / f"{work.name}-{number}"
            aside.mkdir(parents=True, exist_ok=True)
            path.rename(aside / path.name)

    def start(self, console: Console) -> list[str]:
        """Run what is missing, a table below it; the names of what failed."""
        jobs = self.folder / "submitit"
        jobs.mkdir(exist_ok=True)
        if not self.begun:
            now = {"command": sys.argv, "begun": datetime.now(UTC).isoformat()}
            write_whole(self.folder / "study.json", to_json(self.description | now))
        works = self.works()

        def say(text: str) -> None:
            console.print(text, **PLAIN)

        quiet = Quiet(60 * self.plan.wait_minutes, say)

        def before(work: Work) -> None:
            """What is timed on CPUs shares them with nobody."""
            if not (is_parity(work.name) or self.cluster.gpus_per_node):
                self.busy[work.name] = quiet.wait()

        with after_earlier(self.cluster, jobs, say):
            missing = [w for w in works.values() if not self.finished(w.name)]
            for work in missing:
                self.put_aside(work)
            self._note_unseen(works)
        if self.begun:
            done = len(works) - len(missing)
            console.print(
                f"{done} of {len(works)} are finished; running the {len(missing)} "
                "that are missing"
            )
        failed, ended = [], len(works) - len(missing)
        for line in filter(None, [*self.batches(), self._likely(missing, works)]):
            say(line)
        parity = [work for work in missing if is_parity(work.name)]
        others = [work for work in missing if work not in parity]
        with Live(self.table(), console=console, auto_refresh=False) as live:
            for part in parity, others:
                ends = run(self.cluster, part, self.cores, jobs, say, before)
                for work, seconds in ends:
                    ended += 1
                    text = self._ended(work, seconds)
                    say(f"{ended}/{len(works)} {work.name}: {text}")
                    missing.remove(work)
                    table, left = self.table(), self._likely(missing, works)
                    table.caption = left
                    live.update(table, refresh=True)
                    if left and len(others) - len(missing) == len(points(self.plan)):
                        say(left)  # once, and where no table is seen meanwhile
                    if not self.finished(work.name):
                        failed.append(work.name)
        if not console.is_terminal:
            console.line()  # which Live ends its table with on a terminal alone
        return failed

    def _noted(self) -> list[dict[str, Any]]:
        """The rows of cells.jsonl."""
        file = self.folder / "cells.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def _note_unseen(self, works: dict[str, Work]) -> None:
        """Note in cells.jsonl what was finished while no study looked."""
        noted = {row["name"] for row in self._noted() if row["status"] != "failed"}
        for work in works.values():
            if work.name not in noted and self.finished(work.name):
                self._ended(work)

    def _ended(self, work: Work, seconds: float | None = None) -> str:
        """Note in cells.jsonl how something ended, and say it.

        Args:
          seconds: that it took, where that was seen.
        """
        folder, jobs = self.folder / work.name, self.folder / "submitit"
        job, ended = job_of(jobs, work.name), datetime.now(UTC)
        if self.finished(work.name):
            status = "finished"
            left = folder / "summary.json"
            if is_parity(work.name):
                left = folder / "parity.json"
                status = text = json.loads(left.read_text())["verdict"]
            else:
                rate = self._rate(work.name)
                text = f"{rate:,.0f} images/s" if rate else "finished"
            ended = datetime.fromtimestamp(left.stat().st_mtime, UTC)
        else:
            status, logs = "failed", [work.log]
            if job:
                logs.append(submitit_log(jobs, job))
            which = f", job {job}" if job else ""
            text = f"failed{which}, see {work.log}:\n  {said(*logs)}"
        row = {
            "name": work.name,
            "status": status,
            "ended": ended.isoformat(),
            "seconds": None if seconds is None else round(seconds, 1),
            "cores": self.cores * work.devices,
            "busy": self.busy.get(work.name),
            "job": job,
            "log": work.log.name,
        }
        with (self.folder / "cells.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return text

    def table(self) -> Table:
        """Every point: how many of its repeats are finished, and their median."""
        table = Table(title=f"study {self.plan.name}", box=SIMPLE_HEAD)
        table.add_column("cell", no_wrap=True)
        table.add_column("finished", justify="right", no_wrap=True)
        table.add_column("median images/s", justify="right", no_wrap=True)
        shares = [axis for axis in SHARES if False in getattr(self.plan, axis)]
        for axis in shares:
            table.add_column(SHARES[axis], justify="right", no_wrap=True)
        done = {point: [] for point in points(self.plan)}
        for cell in self.order:
            if self.finished(cell.name):
                done[replace(cell, repeat=1)].append(self._rate(cell.name))
        timed = {point: [r for r in rates if r] for point, rates in done.items()}
        for point, rates in done.items():
            median = statistics.median(timed[point]) if timed[point] else None
            row = [
                point.point,
                f"{len(rates)} of {self.plan.repeats}",
                f"{median:,.0f}" if median else "–",
            ]
            for axis in shares:
                # Of the full step's time: what the step without that part saves.
                without = timed.get(replace(point, **{axis: False}))
                if median and without and not point.ablated:
                    row.append(shown(saved(timed[point], without), ".0%"))
                else:
                    row.append("–")
            table.add_row(*row)
        return table

    def _rate(self, name: str) -> float | None:
        """Images per second of a finished cell; None if it was too short for one."""
        return read_summary(self.folder / name)["images_per_second"]["median"]

    def show_plan(self, console: Console) -> None:
        """What would run, how long at most, and how long it is likely to."""
        works, common = self.works(), self._of_all()
        console.print(f"recipe=({' '.join(map(word, common))})", **PLAIN)
        for work in works.values():
            text = "finished"
            if not self.finished(work.name):
                text = shell_line(work, self.cluster, self.cores, common)
            console.print(f"{work.name}: {text}", **PLAIN)
        missing = [w for w in works.values() if not self.finished(w.name)]
        told = [
            *self.batches(),
            f"{len(missing)} of {len(works)} to run, in this order; "
            f"{at_most(missing, self.cluster)}",
            self._likely(missing, works),
            self.not_here
            and f"a plan alone, with {self.cores} core(s) for each device: here it "
            f"would not start: {self.not_here}",
        ]
        for line in filter(None, told):
            console.print(line, **PLAIN)

    def batches(self) -> list[str]:
        """Parity checks whose batch is not that of every cell, a line each."""
        return other_batches(self.plan, self.alone.global_batch, self.checked_at)

    def _likely(self, missing: list[Work], works: dict[str, Work]) -> str:
        """What is left to run, by how long the finished took; empty if none has."""
        seconds = seconds_taken(self._noted())
        return likely(missing, works.values(), seconds, self.cluster)


PLAIN: dict[str, Any] = {"markup": False, "soft_wrap": True}


def run_study(config: StudyConfig) -> None:
    """Check all, then run what is missing and say what it came to.

    Raises:
      ConfigError: before anything starts.
      SystemExit: 1 if anything failed, or a parity check found a difference.
    """
    study = Study(config)
    console = Console(highlight=False)
    if config.dry_run:
        study.show_plan(console)
        return
    study.folder.mkdir(parents=True, exist_ok=True)
    # A second start would run the same cells, and end those of the first as it ends.
    with locked(study.folder / ".lock"):
        _run_and_report(study, console)


def _run_and_report(study: Study, console: Console) -> None:
    console.print(f"{study.folder}: {len(study.order)} cells", **PLAIN)
    if study.cluster.name == "slurm":
        console.print(
            "watch: squeue --me --name=duet (later sacct --name=duet); logs: *.log in "
            "that folder",
            **PLAIN,
        )
    failed = study.start(console)
    from report.write import report_on  # here, since what draws takes a second

    console.print(report_on(study.folder), **PLAIN)
    different = study.different()
    if different:
        console.print(f"{', '.join(different)} is not identical: compare no speeds")
    if failed:
        console.print(f"failed, and run anew by the next start: {', '.join(failed)}")
    if failed or different:
        raise SystemExit(1)


if __name__ == "__main__":
    alone_main(run_study, config_name="study", schema=StudyConfig)
