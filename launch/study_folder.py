"""The folder of a study: what it holds, and what has ended in it.

study.json is the plan and its order, cells.jsonl has a row for whatever ended,
submitit/ is submitit's, and unfinished/ has what interrupted starts left. Each cell and
each parity check has a folder and a log of its name.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launch.cluster import Work, job_of, submitit_log
from launch.cost import is_parity, likely, seconds_taken
from launch.same_study import differences
from launch.study_plan import Study, description
from launch.trainings import said
from recipe.cluster import ClusterConfig
from recipe.errors import ConfigError, RecordError
from recipe.study import Cell, StudyPlan, cells, points
from record.disk import to_json, write_whole
from record.run import read_summary
from report.parity.bounds import PASSES


@dataclass(frozen=True)
class StudyFolder:
    """Reads and writes the folder of one study."""

    path: Path

    @property
    def description(self) -> Path:
        return self.path / "study.json"

    @property
    def jobs(self) -> Path:
        return self.path / "submitit"

    def resumed(self, study: Study) -> Study:
        """The study that the folder holds, where it is the one that is asked for.

        Where this machine cannot tell the cores of a device, they are those it has run
        with.

        Raises:
          ConfigError, RecordError: if it holds anything else.
        """
        try:
            held = json.loads(self.description.read_text())
            if study.not_here:
                study = replace(study, cores=int(held["cluster"]["cores_per_device"]))
            other = differences(held, description(study))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{self.description} is no study's: {error!r}") from error
        if other:
            raise ConfigError(
                f"run.dir={self.path} holds another study ({'; '.join(other)}); "
                "choose another run.dir, or ask for that study again"
            )
        return replace(study, begun=True)

    def begin(self, study: Study) -> None:
        """Write what the study is, unless an earlier start did."""
        self.jobs.mkdir(exist_ok=True)
        if not study.begun:
            now = {"command": sys.argv, "begun": datetime.now(UTC).isoformat()}
            write_whole(self.description, to_json(description(study) | now))

    def finished(self, name: str) -> bool:
        """Whether a cell, or a parity check, has come to its end."""
        if is_parity(name):
            return (self.path / name / "parity.json").exists()
        try:
            return read_summary(self.path / name)["status"] == "finished"
        except RecordError:
            return False

    def missing(self, works: Mapping[str, Work]) -> list[Work]:
        """What has not finished, in its order."""
        return [work for work in works.values() if not self.finished(work.name)]

    def different(self, works: Iterable[str]) -> list[str]:
        """Of these names, parity checks that found a difference."""
        done = [name for name in works if is_parity(name) and self.finished(name)]
        return [name for name in done if self._verdict(name) not in PASSES]

    def rate(self, name: str) -> float | None:
        """Images per second of a finished cell; None if it was too short for one."""
        return read_summary(self.path / name)["images_per_second"]["median"]

    def rates(self, plan: StudyPlan) -> dict[Cell, list[float | None]]:
        """Of each point (its first repeat), the rates of the repeats that finished."""
        rates: dict[Cell, list[float | None]] = {point: [] for point in points(plan)}
        for cell in cells(plan):
            if self.finished(cell.name):
                rates[replace(cell, repeat=1)].append(self.rate(cell.name))
        return rates

    def put_aside(self, work: Work) -> None:
        """Move what an interrupted start left, for the cell to start again."""
        number = 1
        left = [p for p in (self.path / work.name, work.log) if p.exists()]
        while left and (self.path / "unfinished" / f"{work.name}-{number}").exists():
            number += 1
        for path in left:
            aside = self.path / "unfinished" / f"{work.name}-{number}"
            aside.mkdir(parents=True, exist_ok=True)
            path.rename(aside / path.name)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of cells.jsonl."""
        file = self.path / "cells.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def hours_left(
        self,
        missing: list[Work],
        works: Mapping[str, Work],
        cluster: ClusterConfig,
    ) -> str:
        """What is left to run, by how long the finished took; empty if none has."""
        return likely(missing, works.values(), seconds_taken(self.rows()), cluster)

    def unseen(self, works: Mapping[str, Work]) -> list[Work]:
        """What finished while no study looked, so that cells.jsonl has no row of it."""
        noted = {row["name"] for row in self.rows() if row["status"] != "failed"}
        names = [name for name in works if name not in noted and self.finished(name)]
        return [works[name] for name in names]

    def note(
        self, work: Work, cores: int, busy: float | None, seconds: float | None = None
    ) -> str:
        """Note in cells.jsonl how something ended; the same in words.

        Args:
          cores: of each device.
          busy: share of all cores that others used as it began.
          seconds: that it took, where that was seen.
        """
        job = job_of(self.jobs, work.name)
        status, text, ended = self._end_of(work, job)
        row = {
            "name": work.name,
            "status": status,
            "ended": ended.isoformat(),
            "seconds": None if seconds is None else round(seconds, 1),
            "cores": cores * work.devices,
            "busy": busy,
            "job": job,
            "log": work.log.name,
        }
        with (self.path / "cells.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return text

    def _end_of(self, work: Work, job: str | None) -> tuple[str, str, datetime]:
        """Its status, what is said of it, and when it ended."""
        if not self.finished(work.name):
            logs = [work.log, *([submitit_log(self.jobs, job)] if job else [])]
            which = f", job {job}" if job else ""
            text = f"failed{which}, see {work.log}:\n  {said(*logs)}"
            return "failed", text, datetime.now(UTC)
        if is_parity(work.name):
            left = self.path / work.name / "parity.json"
            status = text = self._verdict(work.name)
        else:
            left = self.path / work.name / "summary.json"
            rate = self.rate(work.name)
            status, text = "finished", f"{rate:,.0f} images/s" if rate else "finished"
        return status, text, datetime.fromtimestamp(left.stat().st_mtime, UTC)

    def _verdict(self, name: str) -> str:
        return json.loads((self.path / name / "parity.json").read_text())["verdict"]
