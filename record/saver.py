"""Saving in the background: when a checkpoint is due, and the thread that writes it.

Training waits only while arrays are copied, or for the previous save to end.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from recipe.execution import CheckpointConfig
from recipe.weights import Weights
from record.checkpoint import Checkpoint, CheckpointWriter


class Saver:
    """Writes checkpoints in a thread, at most one at a time; a context manager.

    An error in the thread is raised once, by the next `save` or by `close`, whichever
    comes first; `failed` is true before that.

    Args:
      writer: of the run's checkpoints, entered.
      config: when a checkpoint is due.
      saved: the step of the checkpoint that the run was resumed from, if it was.
      now: monotonic seconds, for checkpoints by time.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        config: CheckpointConfig,
        saved: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self._writer, self._config, self._now = writer, config, now
        self._saved, self._last = saved, now()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[object] | None = None

    def time_is_up(self) -> bool:
        """Whether `checkpoint.every_minutes` have gone by since the last save.

        One rank asks and broadcasts the answer: clocks differ, and all ranks take part
        in gathering what is saved.
        """
        minutes = self._config.every_minutes
        return minutes is not None and self._now() - self._last >= 60 * minutes

    @property
    def failed(self) -> bool:
        """Whether the last save has failed; never waits for it."""
        pending = self._pending
        return (
            pending is not None and pending.done() and pending.exception() is not None
        )

    def save(
        self, checkpoint: Checkpoint, before: Callable[[], object] | None = None
    ) -> None:
        """Write a checkpoint in the background; its arrays may change after this.

        A step that is already on the disk is not written again.

        Args:
          before: called in the thread first, to flush what the checkpoint relies on.

        Raises:
          RecordError: of the previous save; this one is not started then.
        """
        self._wait()
        self._last = self._now()
        if checkpoint.step == self._saved:
            return
        copied = replace(checkpoint, arrays=_copies(checkpoint.arrays))

        def write() -> None:
            if before is not None:
                before()
            self._writer.save(copied)

        self._saved = checkpoint.step
        self._pending = self._thread.submit(write)

    def close(self) -> None:
        """Wait for the last save.

        Raises:
          RecordError: if it failed.
        """
        try:
            self._wait()
        finally:
            self._thread.shutdown()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except BaseException:
                self._saved = None  # it may be tried again
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _copies(arrays: dict[str, Weights]) -> dict[str, Weights]:
    """Copies, since torch's arrays share memory with what the next step updates."""
    return {
        kind: {name: np.array(array, order="C") for name, array in named.items()}
        for kind, named in arrays.items()
    }
