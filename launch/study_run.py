"""The runner of a study: executes what is missing, and notes each end."""

from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.cli import say
from launch.cluster import Work, after_earlier, run
from launch.cost import is_parity
from launch.quiet import Quiet
from launch.study_folder import StudyFolder
from launch.study_plan import Study, works
from launch.study_screen import table
from recipe.study import configurations


class Runner:
    """Runs a study in its folder.

    Args:
      console: shows every start and end, above a table.
    """

    def __init__(self, study: Study, console: Console):
        self.study, self.console = study, console
        self.folder = StudyFolder(study.folder)
        self.works = works(study)
        self.quiet = Quiet(60 * study.plan.wait_minutes, self._say)
        self.busy: dict[str, float] = {}  # fraction of cores that others used, by run

    def run(self) -> list[str]:
        """Run what is missing; returns the names of what failed."""
        self.folder.begin(self.study)
        missing = self._missing()
        done, total = len(self.works) - len(missing), len(self.works)
        if self.study.started:
            self._say(
                f"{done} of {total} are finished; running the {len(missing)} "
                "that are missing"
            )
        for line in filter(None, [*self.study.batches, self._hours_left(missing)]):
            self._say(line)
        failed = self._run_all(missing)
        if not self.console.is_terminal:
            self.console.line()  # which Live prints only on a terminal
        return failed

    def _missing(self) -> list[Work]:
        """What is to run, after what an earlier start left running has ended."""
        with after_earlier(self.study.cluster, self.folder.jobs, self._say):
            missing = self.folder.missing(self.works)
            for work in missing:
                self.folder.put_aside(work)
            for work in self.folder.unseen(self.works):
                self._note(work)
        return missing

    def _run_all(self, missing: list[Work]) -> list[str]:
        """Run these and update the table; returns the names of what failed."""
        failed, left, total = [], list(missing), len(self.works)
        runs = sum(not is_parity(work.name) for work in missing)
        with Live(self._table(), console=self.console, auto_refresh=False) as live:
            for work, seconds in self._ends(missing):
                left.remove(work)
                text = self._note(work, seconds)
                self._say(f"{total - len(left)}/{total} {work.name}: {text}")
                shown, hours = self._table(), self._hours_left(left)
                shown.caption = hours
                live.update(shown, refresh=True)
                if hours and runs - len(left) == len(configurations(self.study.plan)):
                    self._say(hours)  # once, for outputs without a live table
                if not self.folder.finished(work.name):
                    failed.append(work.name)
        return failed

    def _ends(self, missing: list[Work]) -> Iterator[tuple[Work, float | None]]:
        """Each when it ends, parity checks first, with the seconds that it took."""
        parity = [work for work in missing if is_parity(work.name)]
        others = [work for work in missing if work not in parity]
        cluster, cores, jobs = self.study.cluster, self.study.cores, self.folder.jobs
        for part in parity, others:
            yield from run(cluster, part, cores, jobs, self._say, self._before)

    def _before(self, work: Work) -> None:
        """Runs that are timed on CPUs wait until the machine is idle."""
        if not (is_parity(work.name) or self.study.cluster.gpus_per_node):
            self.busy[work.name] = self.quiet.wait()

    def _note(self, work: Work, seconds: float | None = None) -> str:
        busy = self.busy.get(work.name)
        return self.folder.note(work, self.study.cores, busy, seconds)

    def _table(self) -> Table:
        return table(self.study.plan, self.folder.rates(self.study.plan))

    def _hours_left(self, missing: list[Work]) -> str:
        return self.folder.hours_left(missing, self.works, self.study.cluster)

    def _say(self, text: str) -> None:
        say(self.console, text)
