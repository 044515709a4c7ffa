"""The record of a run while it goes: what each rank tells of it, and rank 0 writes."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
import safetensors.numpy

from recipe.batch_plan import BatchPlan, Window
from recipe.config import Config, ablated, identity_parts, recipe_hash
from recipe.errors import DivergedError, DuetError, RecordError, StoppedError
from recipe.weights import Weights, new_head
from record.checkpoint import Checkpoint, CheckpointWriter, checkpoint_folder
from record.disk import recording, to_json, write_whole
from record.environment import describe_environment, own_cores
from record.metrics import median_throughput
from record.run import FINAL, LAST, read_rows
from record.saver import Saver
from record.schema import SCHEMA_VERSION, strict_json
from record.screen import open_screen
from record.stopping import mark_requeue, stopped_error
from record.trace import Trace, to_bytes, trace_file
from record.tracking import open_tracker

LOGGER = logging.getLogger("duet")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a run before its first step.

    Args:
      framework: "torch" or "jax".
      devices: of this process, by name.
      rank, processes, world_size: this process, of how many, on how many devices.
      parameters: trained numbers in the model.
      data_fingerprint: of the dataset.
      compiled: whether steps are compiled; if not they run eagerly.
      compile_seconds: spent on that, 0 where they run eagerly.
      compile_cached: whether all of it came out of a cache; None where eager.
      startup_seconds: from process start until ready to train, without compiling.
    """

    framework: str
    devices: list[str]
    rank: int
    processes: int
    world_size: int
    parameters: int
    data_fingerprint: str
    compiled: bool
    compile_seconds: float
    compile_cached: bool | None
    startup_seconds: float


class Recorder:
    """One run's record while it runs, a context manager; the same calls on every rank.

    Rank 0 writes. A write that fails (a full disk) does not raise where it happens, as
    the other ranks would then wait for rank 0 forever: it is kept in `failure`, for the
    ranks to share at the end of a window and to stop together with `stop_if`.

    Args:
      writer: of the folder's checkpoints, entered, on the rank that writes; closed with
        the record. None saves nothing.
      resumed: what the run goes on from; the folder's rows end there.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        plan: BatchPlan,
        facts: Facts,
        writer: CheckpointWriter | None = None,
        resumed: Checkpoint | None = None,
    ):
        self.path = path
        self.config = config
        self.plan = plan
        self.facts = facts
        self.failure: RecordError | None = None
        self._writes = facts.rank == 0
        self._windows: list[dict[str, Any]] = []
        self._skipped = 0  # steps
        self._summary: dict[str, Any] = {}
        self._test_step = 0
        self._metrics: TextIO | None = None
        self._resumed, self._writer = resumed, writer
        self._saver: Saver | None = None
        self._warm = False

    def __enter__(self) -> Self:
        facts = self.facts
        self._log = _open_log(self.path, facts.rank)
        LOGGER.info(
            "%s, rank %d of %d, process %d, on %s, cores %s",
            facts.framework,
            facts.rank,
            facts.processes,
            os.getpid(),
            ", ".join(facts.devices),
            own_cores(),
        )
        if not self._writes:
            return self
        self._summary = {
            "schema_version": SCHEMA_VERSION,
            "status": "failed",
            "error": None,
            "framework": facts.framework,
            "experiment": self.config.name,
            "data": self.config.data.name,
            "model": self.config.model.name,
            "parallel": self.config.parallel.name,
            "precision": self.config.precision.name,
            "deterministic": self.config.deterministic,
            "compiled": facts.compiled,
            "ablated": ablated(self.config),
            "resumed_anyway": [],
            "world_size": facts.world_size,
            "processes": facts.processes,
            "global_batch": self.config.train.global_batch,
            "parameters": facts.parameters,
            "new_head": new_head(self.config),
            "steps": self._done,
            "skipped_steps": 0,
            "images_per_second": median_throughput([]),
            "compile_seconds": facts.compile_seconds,
            "compile_cached": facts.compile_cached,
            "startup_seconds": facts.startup_seconds,
            "test": None,
            "peak_memory_bytes": None,
            "data_fingerprint": facts.data_fingerprint,
            "config_hash": recipe_hash(self.config),
            "run_dir": str(self.path),
        }
        environment = describe_environment(facts.framework, facts.devices)
        rows: list[dict[str, Any]] = []
        with self._deferred():
            write_whole(self.path / "environment.json", to_json(environment))
            metrics = self.path / "metrics.jsonl"
            rows = read_rows(self.path) if metrics.is_file() else []
            if self._resumed is not None:
                self._take_up(self._resumed, rows)
            self._metrics = metrics.open("a", encoding="utf-8")
        if self._writer is not None:
            there = checkpoint_folder(self.path, self._done).exists()
            self._saver = Saver(
                self._writer,
                self.config.checkpoint,
                saved=self._done if there else None,
            )
        self._tracker = open_tracker(
            self.config,
            run_dir=self.path,
            framework=facts.framework,
            world_size=facts.world_size,
            resolved=asdict(self.config),
            environment=environment,
            rows=rows,
        )
        self._screen = open_screen(
            self.config,
            framework=facts.framework,
            world_size=facts.world_size,
            steps=self.plan.last,
        )
        self._screen.__enter__()
        return self

    @property
    def _done(self) -> int:
        """Optimizer steps that lie behind a resumed run."""
        return 0 if self._resumed is None else self._resumed.step

    def _take_up(self, resumed: Checkpoint, rows: list[dict[str, Any]]) -> None:
        self._skipped = sum(row["skipped"] for row in rows if row["kind"] == "step")
        self._summary["skipped_steps"] = self._skipped
        told = [
            d for row in rows if row["kind"] == "resume" for d in row["differences"]
        ]
        self._summary["resumed_anyway"] = list(dict.fromkeys(told))
        if resumed.test is not None:
            self._test_step = resumed.test["step"]
            scores = {k: v for k, v in resumed.test.items() if k != "step"}
            self._summary["test"] = scores

    def window(
        self,
        window: Window,
        *,
        losses: np.ndarray,
        learning_rates: list[float],
        grad_norms: np.ndarray,
        loss_scales: Sequence[float] | np.ndarray,
        skipped: Sequence[bool] | np.ndarray,
        seconds: Sequence[float] | np.ndarray,
        data_seconds: float,
        dispatch_seconds: float,
    ) -> None:
        """Record a window's steps and its time.

        Args:
          losses, grad_norms, loss_scales, skipped: one per step, the same on every
            rank.
          seconds: of each rank.
          data_seconds: of these, what the host took to plan batches and to place them
            on devices; of the rank that took longest.
          dispatch_seconds: what it took to issue the steps, of the rank that took
            longest.

        Raises:
          DivergedError: on every rank, if a loss is not finite, naming the first step.
        """
        batch = self.config.train.global_batch
        rows = [
            {
                "kind": "step",
                "step": step + 1,
                "epoch": window.epoch + 1,
                "loss": float(loss),
                "learning_rate": rate,
                "grad_norm": float(norm),
                "loss_scale": float(scale),
                "skipped": bool(skip),
                "examples": (step + 1) * batch,
            }
            for step, loss, rate, norm, scale, skip in zip(
                window.steps,
                losses,
                learning_rates,
                grad_norms,
                loss_scales,
                skipped,
                strict=True,
            )
        ]
        timed = self._timed(window.steps, seconds, data_seconds, dispatch_seconds)
        timed |= {"warmup": not self._warm, "measured": False}
        self._warm = True
        self._windows.append(timed)
        self._write_rows([*rows, timed])
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

    def measured(
        self,
        steps: range,
        *,
        seconds: Sequence[float] | np.ndarray,
        data_seconds: float,
        dispatch_seconds: float,
    ) -> None:
        """Record a window that was timed after the training; see `window`."""
        timed = self._timed(steps, seconds, data_seconds, dispatch_seconds)
        timed |= {"warmup": False, "measured": True}
        self._windows.append(timed)
        self._write_rows([timed])

    def _timed(
        self,
        steps: range,
        seconds: Sequence[float] | np.ndarray,
        data_seconds: float,
        dispatch_seconds: float,
    ) -> dict[str, Any]:
        slowest = float(max(seconds))
        examples = len(steps) * self.config.train.global_batch
        return {
            "kind": "window",
            "step": steps.stop,
            "steps": len(steps),
            "seconds": slowest,
            "step_seconds": slowest / len(steps),
            "rank_seconds": [float(own) for own in seconds],
            "data_seconds": float(data_seconds),
            "dispatch_seconds": float(dispatch_seconds),
            "images_per_second": examples / slowest,
        }

    def trace(self, trace: Trace) -> None:
        """Record one step's activations and gradients."""
        if self._writes:
            with self._deferred():
                write_whole(trace_file(self.path, trace.step), to_bytes(trace))

    def evaluation(self, window: Window, metrics: dict[str, Any]) -> None:
        """Record the evaluation that follows a window."""
        scores = {k: v for k, v in metrics.items() if k != "confusion"}
        place = {"step": window.steps.stop, "epoch": window.epoch + 1}
        self._write_rows([{"kind": "evaluation", **place, **scores}])
        self._summary["test"], self._test_step = metrics, window.steps.stop

    def time_is_up(self) -> bool:
        """Whether a checkpoint is due by time; only the rank that writes ever says so.

        To be shared with the other ranks, which all take part in saving.
        """
        return self._saver is not None and self._saver.time_is_up()

    def save(
        self,
        window: Window,
        arrays: dict[str, Weights],
        state: dict[str, int | float],
    ) -> None:
        """Save what the run can go on from after a window, behind the next steps.

        Args:
          arrays: slot -> canonical name -> array, see `Checkpoint`.
          state: the numbers beside them.
        """
        if self._saver is None or self._metrics is None or self.failure is not None:
            return
        test = self._summary["test"]
        rows = self._metrics.fileno()
        checkpoint = Checkpoint(
            step=window.steps.stop,
            epoch=window.epoch + 1,
            framework=self.facts.framework,
            world_size=self.facts.world_size,
            config_hash=recipe_hash(self.config),
            recipe=identity_parts(self.config),
            data_fingerprint=self.facts.data_fingerprint,
            arrays=arrays,
            state=state,
            test=None if test is None else {"step": self._test_step, **test},
        )

        def keep_rows() -> None:
            """What leads to a checkpoint must outlast whatever it outlasts."""
            self._tracker.catch_up()
            os.fsync(rows)

        with self._deferred():
            self._saver.save(checkpoint, before=keep_rows)

    def stopped(self, step: int, reason: str) -> StoppedError:
        """Record that the run leaves after a step, to be started again.

        Returns:
          What is to be raised once all ranks know whether rank 0 could save.
        """
        LOGGER.info("asked to stop by %s: left after step %d", reason, step)
        if self._writes:
            self._close_saver()
            if self.failure is None:
                with self._deferred():
                    mark_requeue(self.path, step, reason)
        return stopped_error(self.path, step, reason)

    def trained(self, arrays: dict[str, Weights], peak_memory_bytes: int) -> None:
        """Record what the training came to, whatever steps are timed after it.

        Whatever is saved behind the steps is waited for.

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
        """Record the end: the summary, last."""
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
        if error is not None:
            interrupted = isinstance(error, KeyboardInterrupt)
            known = interrupted or isinstance(error, DuetError)
            said = "interrupted" if interrupted else str(error) or type(error).__name__
            LOGGER.info("stopped: %s", said, exc_info=None if known else error)
            self._summary["error"] = said
            ends = {DivergedError: "diverged", StoppedError: "stopped"}
            self._summary["status"] = ends.get(type(error), "failed")
        if self._writes:
            self._close_saver()
            if error is not None:
                self._write_summary()
            if self._metrics is not None:
                with self._deferred():
                    self._metrics.close()
            self._screen.__exit__(kind, error, trace)
            # After the live bar, which would break the line that syncs the run.
            self._tracker.finish(self._summary)
            self._screen.close_table(self._summary)
        _close_log(self._log)
        if self._writer is not None:
            self._writer.close()  # last, since it lets another run have the folder

    def cut_short(self, reason: str) -> None:
        """Record why the run ends, where its main thread never comes to tell."""
        self._summary["error"] = reason
        if self._writes:
            self._write_summary()

    def _close_saver(self) -> None:
        if self._saver is not None:
            with self._deferred():
                self._saver.close()

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
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
        self._tracker.log(*rows)  # last, since from here on its thread takes time

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


def _open_log(path: Path, rank: int) -> list[logging.Handler]:
    handlers: list[logging.Handler] = []
    with contextlib.suppress(OSError):  # a log is not worth a run
        (path / "logs").mkdir(exist_ok=True)
        handlers.append(logging.FileHandler(path / "logs" / f"rank{rank}.log"))
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    handlers.append(screen)
    form = logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(message)s")
    for handler in handlers:
        handler.setFormatter(form)
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    return handlers


def _close_log(handlers: list[logging.Handler]) -> None:
    for handler in handlers:
        LOGGER.removeHandler(handler)
        handler.close()
