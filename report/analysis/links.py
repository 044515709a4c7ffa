"""The link that a run was timed over, as `link.json` in its folder says."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from recipe.errors import RecordError
from recipe.links import FILE, PORT, UNLIMITED, Sent
from record.disk import parse_json, read_text

# What reading a value raises that is missing, or of another kind or size than it was.
DAMAGE = (LookupError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class RunLink:
    """The links of one run.

    Args:
      asked: Mbit/s, None without a limit.
      measured: Mbit/s of each host's, by a plain TCP transfer before the run.
      congestion: TCP's algorithm.
      processes_per_core: more than 1 where they shared cores.
      sent: step at the end of each window -> payload bytes that rank 0 had sent.
    """

    asked: int | None
    measured: tuple[float, ...]
    congestion: str
    processes_per_core: float
    sent: tuple[tuple[int, int], ...]

    def bytes_per_exchange(
        self, every: int, evaluated: Iterable[int] = ()
    ) -> float | None:
        """What rank 0 sent for each exchange, between the first window and the last.

        None where a run was also evaluated between these: replicas of local SGD then
        exchange their weights once more.

        Args:
          every: steps between two exchanges.
          evaluated: steps before each evaluation.
        """
        if len(self.sent) < 2:
            return None
        (first, before), (last, after) = self.sent[0], self.sent[-1]
        if any(first <= step < last for step in evaluated):
            return None
        exchanges = last // every - first // every
        return (after - before) / exchanges if exchanges else None


def read_link(run: Path, environment: Mapping[str, Any]) -> RunLink | None:
    """The links of a run; None for a run over none.

    Args:
      environment: of the run, which names its interface.

    Raises:
      RecordError: if its file is damaged, or missing.
    """
    file = run / FILE
    if not file.exists():
        network = environment.get("network_settings") or {}
        if network.get("GLOO_SOCKET_IFNAME") != PORT:
            return None
        raise RecordError(
            f"{run} was run over a study's link, which is not known without {FILE}: "
            "the study was killed as the run ended"
        )
    held = parse_json(read_text(file), file)
    try:
        asked = held["asked_mbit"]
        link = RunLink(
            None if asked == UNLIMITED else int(asked),
            tuple(map(float, held["measured_mbit"])),
            str(held["congestion_control"]),
            float(held["processes_per_core"]),
            tuple(
                (int(row["step"]), Sent(int(row["bytes"]), int(row["packets"])).payload)
                for row in held["windows"]
            ),
        )
        steps = [step for step, _ in link.sent]
        if min(link.measured) <= 0 or any(b <= a for a, b in pairwise(steps)):
            raise ValueError("speeds must be > 0, and steps increase")
    except DAMAGE as error:
        raise RecordError(f"{file} does not describe a link: {error!r}") from error
    return link
