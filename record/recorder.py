"""The record of a run in progress: every rank reports to it, rank 0 writes it."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
import safetensors.numpy

from recipe.batch_plan import BatchPlan, Window
from recipe.config import Config, identity_parts, recipe_hash
from recipe.errors import DivergedError, DuetError, RecordError, StoppedError
from recipe.weights import Weights
from record.checkpoint import Checkpoint, CheckpointWriter, checkpoint_folder
from record.clock import Times
from record.disk import recording, to_json, write_whole
from record.environment import describe_environment, own_cores
from record.log import LOGGER, open_log
from record.metadata import RunMetadata, initial_summary
from record.metrics import median_throughput
from record.rows import Row, evaluation_row, round_rows, step_rows, window_row
from record.run import FINAL, LAST, read_rows
from record.saver import Saver
from record.schema import strict_json
from record.screen import open_screen
from record.stopping import mark_requeue, stopped_error
from record.trace import Trace, to_bytes, trace_file
from record.tracking import open_tracker


class Recorder:
    """The record of a run in progress, a context manager; the same calls on every rank.

    Rank 0 writes. A write that fails (a full disk) does not raise at once, or the other
    ranks would wait for rank 0 forever: the error is kept in `failure` until the ranks
    share it at the end of a window and stop together with `stop_if`.

    Args:
      writer: of the folder's checkpoints, entered, on the rank that writes; closed with
        the record. None: nothing is saved.
      resumed: the checkpoint that the run resumes from; the folder's rows end there.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        plan: BatchPlan,
        metadata: RunMetadata,
        writer: CheckpointWriter | None = None,
        resumed: Checkpoint | None = None,
    ):
        self.path = path
        self.config = config
        self.plan = plan
        self.metadata = metadata
        self.failure: RecordError | None = None
        self._writes = metadata.rank == 0
        self._windows: list[Row] = []
        self._skipped = 0  # steps
        self._summary: dict[str, Any] = {}
        self._test_step = 0
        self._metrics: TextIO | None = None
        self._resumed, self._writer = resumed, writer
        self._saver: Saver | None = None
        self._warm = False

    def __enter__(self) -> Self:
        metadata = self.metadata
        with contextlib.ExitStack() as opened:
            if self._writer is not None:
                # Closed last, since that unlocks the folder for other runs.
                opened.callback(self._writer.close)
            opened.enter_context(open_log(self.path, metadata.rank))
            LOGGER.info(
                "%s, rank %d of %d, process %d, on %s, cores %s",
                metadata.framework,
                metadata.rank,
                metadata.processes,
                os.getpid(),
                ", ".join(metadata.devices),
                own_cores(),
            )
            if self._writes:
                self._open(opened)
            self._opened = opened.pop_all()
        return self

    def _open(self, opened: contextlib.ExitStack) -> None:
        """Files, tracker and screen, on the rank that writes."""
        metadata, done = self.metadata, self._resumed.step if self._resumed else 0
        self._summary = initial_summary(self.config, metadata, self.path, done)
        environment = describe_environment(
            metadata.framework, metadata.devices, metadata.settings
        )
        rows: list[Row] = []
        with self._deferred():
            write_whole(self.path / "environment.json", to_json(environment))
            metrics = self.path / "metrics.jsonl"
            rows = read_rows(self.path) if metrics.is_file() else []
            if self._resumed is not None:
                self._take_up(self._resumed, rows)
            self._metrics = metrics.open("a", encoding="utf-8")
        if self._writer is not None:
            there = checkpoint_folder(self.path, done).exists()
            self._saver = Saver(
                self._writer, self.config.checkpoint, saved=done if there else None
            )
        self._tracker = open_tracker(
            self.config,
            run_dir=self.path,
            framework=metadata.framework,
            world_size=metadata.world_size,
            resolved=asdict(self.config),
            environment=environment,
            rows=rows,
        )
        self._screen = open_screen(
            self.config,
            framework=metadata.framework,
            world_size=metadata.world_size,
            steps=self.plan.last,
        )
        # Closed in reverse: rows, then the live bar, which would break up the line with
        # the `wandb sync` command, then the tracker, which prints it, then the table.
        opened.callback(lambda: self._screen.close_table(self._summary))
        opened.callback(lambda: self._tracker.finish(self._summary))
        opened.enter_context(self._screen)
        opened.callback(self._close_rows)

    def _take_up(self, resumed: Checkpoint, rows: list[Row]) -> None:
        self._skipped = sum(row["skipped"] for row in rows if row["kind"] == "step")
        self._summary["skipped_steps"] = self._skipped
        differences = [
            d for row in rows if row["kind"] == "resume" for d in row["differences"]
        ]
        self._summary["resumed_anyway"] = list(dict.fromkeys(differences))
        if resumed.test is not None:
            self._test_step = resumed.test["step"]
            scores = {k: v for k, v in resumed.test.items() if k != "step"}
            self._summary["test"] = scores

    def window(
        self,
        window: Window,
        times: Times,
        *,
        losses: np.ndarray,
        learning_rates: list[float],
        grad_norms: np.ndarray,
        loss_scales: Sequence[float] | np.ndarray,
        skipped: Sequence[bool] | np.ndarray,
        rounds: Sequence[tuple[int, int, np.ndarray]] = (),
    ) -> None:
        """Record a window's steps and its time.

        Args:
          losses, grad_norms, loss_scales, skipped: one per step, the same on every
            rank.
          rounds: of local SGD, as `round_rows` takes them.

        Raises:
          DivergedError: on every rank, if a loss is not finite, naming the first step.
        """
        batch = self.config.train.global_batch_size
        rows = step_rows(
            window,
            batch,
            losses=losses,
            learning_rates=learning_rates,
            grad_norms=grad_norms,
            loss_scales=loss_scales,
            skipped=skipped,
        )
        timed = window_row(
            window.steps, batch, times, warmup=not self._warm, measured=False
        )
        self._warm = True
        self._windows.append(timed)
        met = round_rows(self.config, self.metadata.world_size, rounds)
        in_order = sorted([*rows, *met], key=lambda row: row["step"])
        self._write_rows([*in_order, timed])
        self._summary["steps"] = window.steps.stop
        self._skipped += sum(row["skipped"] for row in rows)
        self._summary["skipped_steps"] = self._skipped
        for row in rows:
            if not math.isfinite(row["loss"]):
                raise DivergedError(
                    f"the loss is {row['loss']} at step {row['step']}, "
                    f"learning rate {row['learning_rate']:g}: stopped after the "
                    f"window; the record is kept in {self.path}. "
                    "Try a smaller optim.peak_lr or schedule.warmup_steps > 0"
                )

    def measured(self, steps: range, times: Times) -> None:
        """Record a window that was timed after the training."""
        batch = self.config.train.global_batch_size
        timed = window_row(steps, batch, times, warmup=False, measured=True)
        self._windows.append(timed)
        self._write_rows([timed])

    def trace(self, trace: Trace) -> None:
        """Record one step's activations and gradients."""
        if self._writes:
            with self._deferred():
                write_whole(trace_file(self.path, trace.step), to_bytes(trace))

    def evaluation(self, window: Window, metrics: dict[str, Any]) -> None:
        """Record the evaluation that follows a window."""
        self._write_rows([evaluation_row(window, metrics)])
        self._summary["test"], self._test_step = metrics, window.steps.stop

    def time_is_up(self) -> bool:
        """Whether a checkpoint is due by time; only ever true on the rank that writes.

        To be shared with the other ranks, as all take part in saving.
        """
        return self._saver is not None and self._saver.time_is_up()

    def save(
        self,
        window: Window,
        arrays: dict[str, Weights],
        state: dict[str, int | float],
    ) -> None:
        """Save a checkpoint after a window, in the background of the next steps.

        Args:
          arrays: as `Checkpoint` has them.
          state: the scalars.
        """
        if self._saver is None or self._metrics is None or self.failure is not None:
            return
        test = self._summary["test"]
        rows = self._metrics.fileno()
        checkpoint = Checkpoint(
            step=window.steps.stop,
            epoch=window.epoch + 1,
            framework=self.metadata.framework,
            world_size=self.metadata.world_size,
            config_hash=recipe_hash(self.config),
            recipe=identity_parts(self.config),
            data_fingerprint=self.metadata.data_fingerprint,
            arrays=arrays,
            state=state,
            test=None if test is None else {"step": self._test_step, **test},
        )

        def keep_rows() -> None:
            """Flush the rows up to a checkpoint, which must last as long as it does."""
            self._tracker.catch_up()
            os.fsync(rows)

        with self._deferred():
            self._saver.save(checkpoint, before=keep_rows)

    def stopped(self, step: int, reason: str) -> StoppedError:
        """Record that the run stops after a step, to be started again.

        Returns:
          The error to raise once all ranks know whether rank 0 could save.
        """
        LOGGER.info("asked to stop by %s: stopped after step %d", reason, step)
        if self._writes:
            self._close_saver()
            if self.failure is None:
                with self._deferred():
                    mark_requeue(self.path, step, reason)
        return stopped_error(self.path, step, reason)

    def trained(self, arrays: dict[str, Weights], peak_memory_bytes: int) -> None:
        """Record the trained weights, before any steps are timed beyond them.

        Waits for the save in the background.

        Args:
          arrays: "weights" and, where there is one, their "average"; as in `save`.

        Raises:
          DivergedError: on every rank, if a weight is not finite.
        """
        self._summary["peak_memory_bytes"] = peak_memory_bytes
        if self._writes:
            files = {LAST: arrays["weights"], FINAL: arrays.get("average")}
            if files[FINAL] is None:
                files = {FINAL: arrays["weights"]}
            for name, weights in files.items():
                content = safetensors.numpy.save(weights)
                with self._deferred():
                    write_whole(self.path / name, content)
        for name, array in (leaf for held in arrays.values() for leaf in held.items()):
            if not np.isfinite(array).all():
                raise DivergedError(
                    f"{name} is not finite after the last step, {self.plan.last}; the "
                    f"record is kept in {self.path}. Try a smaller optim.peak_lr"
                )
        LOGGER.info("trained %d steps", self.plan.last)
        if self._writes:
            self._close_saver()

    def finish(self) -> None:
        """Record the end of the run; writes the summary, last."""
        if self._writes and self.failure is None:
            self._summary["status"] = "finished"
            self._write_summary()

    def stop_if(self, failed: bool) -> None:
        """Stop every rank together when rank 0's record has failed.

        Raises:
          RecordError: if `failed`; on rank 0 the failure itself.
        """
        if failed:
            raise self.failure or RecordError(
                f"rank 0 could not record; see {self.path / 'logs' / 'rank0.log'}"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._opened:  # closed even if the rest fails
            if error is not None:
                self._note(error)
            self._close_saver()
            if error is not None and self._writes:
                self._write_summary()

    def _note(self, error: BaseException) -> None:
        """Note why the run ends, in its log and its summary."""
        interrupted = isinstance(error, KeyboardInterrupt)
        known = interrupted or isinstance(error, DuetError)
        message = "interrupted" if interrupted else str(error) or type(error).__name__
        LOGGER.info("stopped: %s", message, exc_info=None if known else error)
        self._summary["error"] = message
        statuses = {DivergedError: "diverged", StoppedError: "stopped"}
        self._summary["status"] = statuses.get(type(error), "failed")

    def interrupted(self, reason: str) -> None:
        """Record why the run ends if its main thread never returns."""
        self._summary["error"] = reason
        if self._writes:
            self._write_summary()

    def _close_saver(self) -> None:
        if self._saver is not None:
            with self._deferred():
                self._saver.close()

    def _close_rows(self) -> None:
        if self._metrics is not None:
            with self._deferred():
                self._metrics.close()

    def _write_rows(self, rows: list[Row]) -> None:
        if not self._writes:
            return
        if self._metrics is not None and self.failure is None:
            with self._deferred():
                self._metrics.writelines(
                    json.dumps(strict_json(r)) + "\n" for r in rows
                )
                self._metrics.flush()
        for row in rows:
            self._screen.show(row)
        self._tracker.log(*rows)  # last, since its thread takes time from here on

    def _write_summary(self) -> None:
        self._summary["images_per_second"] = median_throughput(self._windows)
        with self._deferred():
            write_whole(self.path / "summary.json", to_json(strict_json(self._summary)))

    @contextlib.contextmanager
    def _deferred(self) -> Iterator[None]:
        """Keep the first failure to write for `stop_if`."""
        try:
            with recording(self.path):
                yield
        except RecordError as failure:
            self.failure = self.failure or failure
