"""How the ranks of a run agree: on rank 0's answer, and on whether to continue.

Messages are arrays of fixed size, sent by the framework's collectives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from jaxtyping import Float, UInt8

from recipe.errors import DuetError

T = TypeVar("T")

TEXT_BYTES = 4096  # of a message from rank 0: a path, or an error


@dataclass(frozen=True)
class Ranks:
    """The ranks of a run; every method is collective.

    Args:
      rank: this process, from 0.
      count: processes of the run.
      gather: maps this rank's numbers to all ranks', a row for each.
      broadcast: maps an array to rank 0's; never called with one process.
    """

    rank: int
    count: int
    gather: Callable[[list[float]], Float[np.ndarray, "ranks n"]]
    broadcast: Callable[[UInt8[np.ndarray, " text"]], UInt8[np.ndarray, " text"]]

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        return bool(self.gather([flag]).max() > 0)

    def from_rank_zero(self, answer: Callable[[], str]) -> str:
        """Rank 0's answer on every rank; or, on every rank, the error that it raised.

        Raises:
          DuetError: what rank 0 raised; of the original class on rank 0.
        """
        if self.count == 1:
            return answer()
        error, text = None, ""
        if self.rank == 0:
            try:
                text = "+" + answer()
            except DuetError as caught:
                error, text = caught, "-" + str(caught)
        message = np.zeros(TEXT_BYTES, np.uint8)
        encoded = np.frombuffer(text.encode()[:TEXT_BYTES], np.uint8)
        message[: len(encoded)] = encoded
        text = self.broadcast(message).tobytes().rstrip(b"\0").decode(errors="replace")
        if error is not None:
            raise error
        if text.startswith("-"):
            raise DuetError(text[1:])
        return text[1:]

    def on_every_rank(self, make: Callable[[], T]) -> T:
        """Each rank's own result; or, if any rank fails, an error on all.

        Raises:
          DuetError: a rank's own, or which ranks have failed.
        """
        result, own = None, None
        try:
            result = make()
        except DuetError as error:
            own = error
        flags = self.gather([own is not None])
        failed = flags[:, 0].nonzero()[0].tolist()
        if own is not None:
            own.of_one_rank = len(failed) < len(flags)
            raise own
        if failed:
            raise DuetError(f"stopped, since ranks {failed} failed")
        return cast(T, result)
