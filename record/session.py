"""The life of a run: how it starts or resumes, agrees to stop, fails, saves and ends.

What the ranks have to agree on is decided here, in the same order on each of them; the
loops in the twins' `train.py` are the algorithm. No framework's array gets here.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recipe.batch_plan import BatchPlan, Window
from recipe.config import Config
from recipe.errors import DuetError, LostError, RecordError
from recipe.timing import Pace
from record.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    checkpoint_folder,
    read_checkpoint,
)
from record.clock import Clock, Times
from record.environment import process_age_seconds
from record.measure import measure
from record.metadata import Compilation, RunMetadata
from record.recorder import Recorder
from record.resume import Resume, fitting, resume_point, was_interrupted
from record.rewind import claim_folder
from record.stopping import STOP, mark_requeue, stopped_error
from runtime.agreement import Ranks
from runtime.heartbeat import Heartbeat
from runtime.signals import Stopping


class ResumePlan:
    """Whether a run starts or resumes, and in which folder; the same on every rank.

    `resolve`, `claim` and `abandon` are called on rank 0 and return text for all ranks.

    Args:
      framework: "torch" or "jax".
      world_size: devices of the run.

    Attributes:
      writer: of the folder's checkpoints, once claimed; None on the other ranks.
    """

    def __init__(self, framework: str, config: Config, world_size: int):
        self.framework, self.config, self.world_size = framework, config, world_size
        self.writer: CheckpointWriter | None = None
        self._resume: Resume | None = None

    def resolve(self, plan: BatchPlan, data_fingerprint: str) -> str:
        """The path of the checkpoint to resume from, or ""; also prints it.

        Args:
          plan: of the whole run.

        Raises:
          RecordError: as `resume_point` does, and if no step is left to take.
        """
        self._resume = resume_point(self.config, data_fingerprint, self.world_size)
        if self._resume is None:
            return ""
        _refuse_past(self._resume, plan.last)
        print(*self._resume.messages(), sep="\n", flush=True)
        if self._resume.checkpoint is None:
            return ""
        return str(checkpoint_folder(self._resume.source, self._resume.step))

    def read(self, path: str) -> Checkpoint | None:
        """The checkpoint that was resolved, on every rank; rank 0 has read it already.

        Raises:
          RecordError: if it cannot be read, or does not fit, see `fitting`.
        """
        if not path:
            return None
        found = None if self._resume is None else self._resume.checkpoint
        held = found or read_checkpoint(Path(path))
        return fitting(self.config, path, held, self.world_size)

    def claim(self) -> str:
        """Claim the run folder; returns its path.

        Raises:
          RecordError: as `claim_folder` does.
        """
        self.writer = claim_folder(
            self.config,
            self._resume,
            framework=self.framework,
            world_size=self.world_size,
        )
        return str(self.writer.run)

    def abandon(self, reason: str) -> str:
        """Mark the run to be started again, before there is anything to save.

        Returns:
          The run folder; empty without `run.dir`, where none is made.

        Raises:
          RecordError: as `claim_folder` does.
        """
        if self._resume is None and self.config.run.dir is None:
            return ""
        folder = self.claim()
        assert self.writer is not None
        with contextlib.closing(self.writer):
            mark_requeue(Path(folder), self._resume.step if self._resume else 0, reason)
        return folder


def _refuse_past(resume: Resume, last: int) -> None:
    """A run resumes if steps are left, or if it was killed after the last one."""
    test = None if resume.checkpoint is None else resume.checkpoint.test
    ended = (
        test is not None
        and test["step"] == resume.step == last
        and was_interrupted(resume.source)
    )
    if resume.step >= last and not ended:
        raise RecordError(
            f"{resume.source} would be resumed after step {resume.step}, but the last "
            f"step asked for is {last}; ask for more (train.epochs or "
            "train.steps), or give run.resume= an earlier checkpoint"
        )


class Session:
    """One rank's part in the life of a run; all ranks make the same calls in order.

    Args:
      framework: "torch" or "jax".
      ranks: of the run, already connected.
      world_size: devices of the run.
      devices: of this process, by name.
      stopping, heartbeat: entered.
    """

    _plan: BatchPlan  # this and the next are set by `resume`
    _data_fingerprint: str
    _record: Recorder  # this and the next are set while `recording`
    _start_profile: Callable[[Path], Callable[[], None]]

    def __init__(
        self,
        framework: str,
        config: Config,
        ranks: Ranks,
        world_size: int,
        devices: list[str],
        stopping: Stopping,
        heartbeat: Heartbeat,
    ):
        self.framework, self.config, self.ranks = framework, config, ranks
        self.world_size, self.devices = world_size, devices
        self._stopping, self._heartbeat = stopping, heartbeat
        self._resume_plan = ResumePlan(framework, config, world_size)
        self._resumed: Checkpoint | None = None
        self._startup_seconds = 0.0
        self._stops_for: str | None = None  # after the window that is being trained

    def run(self, train: Callable[[], Path], stop: Callable[[], None]) -> Path:
        """Train, and shut down cleanly, whether that succeeds or fails on all ranks.

        Args:
          train: trains; returns the run folder.
          stop: leaves the framework's process group.

        Raises:
          DuetError: what was wrong and what to do, on every rank.
        """
        self._stopping.install()  # again: JAX replaces SIGTERM's handler as it starts
        self._heartbeat.connect()
        try:
            folder = train()
        except LostError:
            raise  # a clean shutdown would wait for it
        except DuetError as error:
            # All ranks raise it, so all can shut down; without the traceback, whose
            # frames would keep the model and the process group alive.
            stop()
            self._heartbeat.close()
            raise error.with_traceback(None) from None
        stop()
        self._heartbeat.close()
        return folder

    def resume(self, plan: BatchPlan, data_fingerprint: str) -> Checkpoint | None:
        """The checkpoint that the run resumes from; None for a new run.

        Args:
          plan: of the whole run.

        Raises:
          RecordError: on every rank, if it cannot be resumed.
          StoppedError: on every rank, if one was asked to stop during start-up.
        """
        self._plan, self._data_fingerprint = plan, data_fingerprint
        path = self.ranks.from_rank_zero(
            lambda: self._resume_plan.resolve(plan, data_fingerprint)
        )
        self._resumed = self.ranks.on_every_rank(lambda: self._resume_plan.read(path))
        asked = self._stopping.asked()
        if self.ranks.any(asked is not None):
            why = asked or "another rank"
            left = self.ranks.from_rank_zero(lambda: self._resume_plan.abandon(why))
            raise stopped_error(Path(left) if left else None, self._done, why)
        return self._resumed

    @property
    def _done(self) -> int:
        """Optimizer steps that a resumed run has already done."""
        return 0 if self._resumed is None else self._resumed.step

    def ready(self) -> None:
        """Note that start-up is over except for compiling."""
        self._startup_seconds = process_age_seconds()

    @contextlib.contextmanager
    def recording(
        self,
        parameters: int,
        compilation: Compilation | None,
        start_profile: Callable[[Path], Callable[[], None]],
        settings: Mapping[str, Any] | None = None,
    ) -> Iterator[Recorder]:
        """Claim the run folder and record into it until the end.

        Args:
          parameters: trained numbers in the model.
          compilation: of the steps; None where they run eagerly.
          start_profile: starts a profile in the run folder; returns what ends it.
          settings: what the twin set of its framework, by name.

        Raises:
          RecordError: on every rank, if the folder cannot be claimed.
        """
        folder = Path(self.ranks.from_rank_zero(self._resume_plan.claim))
        self._stopping.watch(folder / STOP)
        self._heartbeat.watch(folder)
        self._start_profile = start_profile
        metadata = RunMetadata(
            framework=self.framework,
            devices=self.devices,
            rank=self.ranks.rank,
            processes=self.ranks.count,
            world_size=self.world_size,
            parameters=parameters,
            data_fingerprint=self._data_fingerprint,
            compilation=compilation,
            startup_seconds=self._startup_seconds,
            settings=settings or {},
        )
        writer, resumed = self._resume_plan.writer, self._resumed
        with (
            Recorder(folder, self.config, self._plan, metadata, writer, resumed) as own,
            self._heartbeat.guard(own.interrupted),
        ):
            self._record = own
            yield own

    def windows(self) -> Iterator[Window]:
        """The windows to train, of which each is followed by `save_due`.

        Raises:
          StoppedError: on every rank, if one was asked to stop; what is needed to
            resume is saved by then.
        """
        asked = self._stopping.asked()  # while compiling
        if self.ranks.any(asked is not None):
            self._stop(self._done, asked or "another rank")
        for window in self._plan.windows(
            self.config.train.log_every_steps,
            self.config.train.evaluate_every_epochs,
            self.config.checkpoint.every_steps,
            self._done,
        ):
            yield window
            if self._stops_for is not None:
                self._stop(window.steps.stop, self._stops_for)

    def _stop(self, step: int, reason: str) -> None:
        stopped = self._record.stopped(step, reason)
        self._stop_if_failed()
        raise stopped

    def _stop_if_failed(self) -> None:
        """Rank 0 alone records, but may not stop alone: the others would wait."""
        failed = self._record.failure is not None
        self._record.stop_if(self.ranks.any(failed))

    @contextlib.contextmanager
    def clock(self, window: Window) -> Iterator[Clock]:
        """Time a window on all ranks; the last one is profiled if that is asked for.

        The device must be done when the context ends; `clock.times` are then those of
        all ranks.
        """
        last = window.steps.stop == self._plan.last
        profiled = self.config.profile and last
        end = self._start_profile(self._record.path) if profiled else None
        clock = Clock()
        yield clock
        clock.stop()
        if end is not None:
            end()
        clock.times = Times.of(self.ranks.gather(clock.own))
        self._heartbeat.progress(slow=window.evaluates)  # as the last one does

    def save_due(self, window: Window) -> bool:
        """Whether to save after a window: by steps, by time, or as the run ends.

        Raises:
          RecordError: on every rank, if rank 0 could not record.
        """
        asked, record = self._stopping.asked(), self._record
        flags = record.failure is not None, asked is not None, record.time_is_up()
        failed, stops, due = self.ranks.gather(list(flags)).max(axis=0)
        record.stop_if(failed > 0)
        if stops > 0 and window.steps.stop < self._plan.last:
            self._stops_for = asked or "another rank"
        last = window.steps.stop == self._plan.last
        ends = last and self.config.checkpoint.saves_end
        return window.saves or ends or due > 0 or self._stops_for is not None

    def measure(
        self, issue: Callable[[range, range, Clock], object], wait: Callable[[], None]
    ) -> None:
        """Time more steps after the training, if `train.timed_seconds` asks for them.

        Args:
          issue, wait: as `record.measure` takes them.

        Raises:
          RecordError: on every rank, if rank 0 could not record.
        """
        pace = Pace.of(self.config, self._plan.last)
        watched = self._record, self._stopping, self._heartbeat, self.ranks
        measure(pace, issue, wait, *watched)

    def finish(self) -> None:
        """Record the end of the run.

        Raises:
          RecordError: on every rank, if rank 0 could not record.
        """
        self._record.finish()
        self._stop_if_failed()
