"""The folder of a study: its files, and what has finished.

study.json is the plan and its order, cells.jsonl has a row for each run or check that
ended, submitit/ is submitit's, and unfinished/ has what interrupted runs left
behind. Each run and each parity check has a folder and a log with its name.
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
from launch.trainings import last_errors
from recipe.cluster import ClusterConfig
from recipe.errors import ConfigError, RecordError
from recipe.study import StudyPlan, StudyRun, configurations, study_runs
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
        """The folder's study, if it is the requested one.

        If this machine cannot tell the cores of a device, they are those it has run
        with.

        Raises:
          ConfigError, RecordError: if it contains anything else.
        """
        try:
            held = json.loads(self.description.read_text())
            if study.not_here:
                study = replace(study, cores=int(held["cluster"]["cores_per_device"]))
            other = differences(held, description(study))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(
                f"{self.description} is not of a study: {error!r}"
            ) from error
        if other:
            raise ConfigError(
                f"run.dir={self.path} contains another study ({'; '.join(other)}); "
                "choose another run.dir, or ask for that study again"
            )
        return replace(study, started=True)

    def begin(self, study: Study) -> None:
        """Write study.json, unless an earlier start did."""
        self.jobs.mkdir(exist_ok=True)
        if not study.started:
            now = {"command": sys.argv, "begun": datetime.now(UTC).isoformat()}
            write_whole(self.description, to_json(description(study) | now))

    def finished(self, name: str) -> bool:
        """Whether a run, or a parity check, has finished."""
        if is_parity(name):
            return (self.path / name / "parity.json").exists()
        try:
            return read_summary(self.path / name)["status"] == "finished"
        except RecordError:
            return False

    def missing(self, works: Mapping[str, Work]) -> list[Work]:
        """What has not finished, in order."""
        return [work for work in works.values() if not self.finished(work.name)]

    def different(self, works: Iterable[str]) -> list[str]:
        """Of these names, the parity checks that found a difference."""
        done = [name for name in works if is_parity(name) and self.finished(name)]
        return [name for name in done if self._verdict(name) not in PASSES]

    def rate(self, name: str) -> float | None:
        """Images per second of a finished run; None if it was too short."""
        return read_summary(self.path / name)["images_per_second"]["median"]

    def rates(self, plan: StudyPlan) -> dict[StudyRun, list[float | None]]:
        """Configuration (its first repeat) -> the rates of its finished repeats."""
        rates: dict[StudyRun, list[float | None]] = {
            point: [] for point in configurations(plan)
        }
        for run in study_runs(plan):
            if self.finished(run.name):
                rates[replace(run, repeat=1)].append(self.rate(run.name))
        return rates

    def put_aside(self, work: Work) -> None:
        """Move what an interrupted start left, so that the run can start again."""
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
        """The time left to run, estimated from finished runs; empty without any."""
        return likely(missing, works.values(), seconds_taken(self.rows()), cluster)

    def unseen(self, works: Mapping[str, Work]) -> list[Work]:
        """What finished while no study was watching, so is not in cells.jsonl."""
        noted = {row["name"] for row in self.rows() if row["status"] != "failed"}
        names = [name for name in works if name not in noted and self.finished(name)]
        return [works[name] for name in names]

    def note(
        self, work: Work, cores: int, busy: float | None, seconds: float | None = None
    ) -> str:
        """Note in cells.jsonl how a work ended; returns a line that says so.

        Args:
          cores: of each device.
          busy: fraction of all cores that others used when it started.
          seconds: that it took, if known.
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
        """Its status, a message about it, and when it ended."""
        if not self.finished(work.name):
            logs = [work.log, *([submitit_log(self.jobs, job)] if job else [])]
            which = f", job {job}" if job else ""
            text = f"failed{which}, see {work.log}:\n  {last_errors(*logs)}"
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
