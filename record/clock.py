"""How long a window took, on one rank and on all of them."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Times:
    """How long a window took on the ranks.

    Args:
      seconds: of each rank, from synchronisation to synchronisation.
      data_seconds: of these, spent on the host to plan batches, mostly the next
        window's, and place them on devices; of the slowest rank.
      dispatch_seconds: spent to issue the steps; of the slowest rank.
    """

    seconds: Sequence[float] | Float[np.ndarray, " ranks"]
    data_seconds: float
    dispatch_seconds: float

    @classmethod
    def of(cls, ranks: Float[np.ndarray, "ranks 3"]) -> "Times":
        """From each rank's `Clock.own`."""
        return cls(ranks[:, 0], float(ranks[:, 1].max()), float(ranks[:, 2].max()))


class Clock:
    """Times a window on this rank, from now on; both of its phases may be repeated.

    Phases are of a window and not of a step: entering one costs a microsecond.

    Attributes:
      times: of all ranks, known once they have gathered after the window.
    """

    times: Times

    def __init__(self) -> None:
        self._seconds, self._data_seconds, self._dispatch_seconds = 0.0, 0.0, 0.0
        self._begin = time.perf_counter()

    @contextlib.contextmanager
    def data(self) -> Iterator[None]:
        """While the host plans batches and places them on devices."""
        begin = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - begin

    @contextlib.contextmanager
    def dispatch(self) -> Iterator[None]:
        """While the host issues steps."""
        begin = time.perf_counter()
        yield
        self._dispatch_seconds += time.perf_counter() - begin

    def stop(self) -> None:
        """Note the end of the window, once its device has done all of it."""
        self._seconds = time.perf_counter() - self._begin

    @property
    def own(self) -> list[float]:
        """Seconds of this rank: of the window, and of these for data and dispatch."""
        return [self._seconds, self._data_seconds, self._dispatch_seconds]
