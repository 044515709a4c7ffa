"""How the processes of a run agree: on rank 0's answer, and on whether to go on.

What is sent is an array of fixed size, by whichever collective the caller has.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from jaxtyping import Float, UInt8

from recipe.errors import DuetError

T = TypeVar("T")

TEXT_BYTES = 4096  # of a message from rank 0: a path, or one error


def answer_of_rank_zero(
    answer: Callable[[], str],
    rank: int,
    broadcast: Callable[[UInt8[np.ndarray, " text"]], UInt8[np.ndarray, " text"]],
) -> str:
    """Rank 0's answer on every rank; or, on every rank, the error it met.

    Args:
      broadcast: gives every rank rank 0's array.

    Raises:
      DuetError: what rank 0 raised, there with its own class.
    """
    error, text = None, ""
    if rank == 0:
        try:
            text = "+" + answer()
        except DuetError as caught:
            error, text = caught, "-" + str(caught)
    message = np.zeros(TEXT_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode()[:TEXT_BYTES], np.uint8)
    message[: len(encoded)] = encoded
    text = broadcast(message).tobytes().rstrip(b"\0").decode(errors="replace")
    if error is not None:
        raise error
    if text.startswith("-"):
        raise DuetError(text[1:])
    return text[1:]


def results_of_all(
    make: Callable[[], T],
    gather: Callable[[list[float]], Float[np.ndarray, "ranks 1"]],
) -> T:
    """Each rank's own result; or, if any rank meets an error, an error on all.

    Args:
      gather: gives every rank the numbers of all, a row for each.

    Raises:
      DuetError: a rank's own, or which ranks have one.
    """
    result, own = None, None
    try:
        result = make()
    except DuetError as error:
        own = error
    flags = gather([own is not None])
    failed = flags[:, 0].nonzero()[0].tolist()
    if own is not None:
        own.of_one_rank = len(failed) < len(flags)
        raise own
    if failed:
        raise DuetError(f"stopped, since ranks {failed} could not go on")
    return cast(T, result)
