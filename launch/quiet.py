"""Waiting for a machine that others leave alone, since a cell is to time itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

# Share of all cores. A shell and its services take some hundredths of two.
BUSY = 0.1
SAMPLE_SECONDS = 1.0


def busy_share(seconds: float = SAMPLE_SECONDS) -> float:
    """The share of all cores' time that is used while this process sleeps so long.

    Linux's pressure (PSI) and load averages do not tell: one counts those that wait for
    a core, and a process alone on all of them lets none wait; the other has the cell
    before in it for a minute. What a hypervisor gives to others counts as used.
    """
    before = psutil.cpu_times()
    time.sleep(seconds)
    return used_share(before._asdict(), psutil.cpu_times()._asdict())


def used_share(before: dict[str, float], after: dict[str, float]) -> float:
    """Of the time that has passed between two readings; in [0, 1].

    >>> used_share({"user": 5.0, "idle": 1.0}, {"user": 5.5, "idle": 2.5})
    0.25
    """
    # A guest's time is part of its host's user time.
    passed = {k: after[k] - before[k] for k in after if not k.startswith("guest")}
    total = sum(passed.values())
    idle = passed["idle"] + passed.get("iowait", 0.0)
    return min(1.0, max(0.0, 1 - idle / total)) if total > 0 else 0.0


def goes_on(busy: float, waited: float, limit: float) -> bool:
    """Whether a cell is to begin.

    Args:
      busy: the share that others use.
      waited, limit: seconds, before all cells so far.
    """
    return busy <= BUSY or waited >= limit


@dataclass
class Quiet:
    """Waits before cells, in all no longer than a limit.

    Args:
      limit: seconds, over all cells; 0 never waits.
      say: told once when a wait begins, and when it has come to the limit.
      busy: the share of all cores that is used by others, sampled for some time.
      now: seconds, of a clock that nobody sets.
    """

    limit: float
    say: Callable[[str], None]
    busy: Callable[[], float] = busy_share
    now: Callable[[], float] = time.monotonic
    waited: float = field(default=0.0, init=False)

    def wait(self) -> float:
        """Wait until a cell may begin; the share that others use then."""
        busy = self.busy()
        if goes_on(busy, self.waited, self.limit):
            return busy
        left = self.limit - self.waited
        self.say(
            f"waiting for up to {left:.0f} s (study.wait_minutes): other processes use "
            f"{busy:.0%} of the cores"
        )
        waited, begin = self.waited, self.now()
        while not goes_on(busy, self.waited, self.limit):
            busy = self.busy()
            self.waited = waited + self.now() - begin
        if busy > BUSY:
            self.say(
                f"other processes still use {busy:.0%} of the cores: going on, and "
                "cells.jsonl says of each cell how many"
            )
        return busy
