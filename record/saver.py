"""Saving while training goes on: when a checkpoint is due, and the thread that writes.

Steps wait for a save only while its arrays are copied, or while the one before it is
still being written.
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
    """Writes checkpoints behind the steps, at most one at a time; a context manager.

    An error of the thread is raised once, by the next `save` or by `close`, whichever
    comes first; `failed` tells of it earlier.

    Args:
      writer: of the run's checkpoints, entered.
      config: when a checkpoint is due.
      saved: the step that is on the disk already, where the run was resumed from it.
      now: seconds of a clock that nobody sets; checkpoints by time follow it.
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

        For one rank to ask and to share the answer with the others, as data: clocks
        differ, and all ranks take part in gathering what is saved.
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

        A step that is on the disk already is not written again.

        Args:
          before: what has to reach the disk first, done by the thread as well.

        Raises:
          RecordError: that the save before this one met; this one is not begun then.
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
          RecordError: that it met.
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
    """Arrays of their own, since torch's share memory with what the next step moves."""
    return {
        slot: {name: np.array(array, order="C") for name, array in named.items()}
        for slot, named in arrays.items()
    }
