"""Waiting until a machine is idle, so that timings are not disturbed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

# Fraction of all cores. A shell and its services use some hundredths of two cores.
BUSY = 0.1
SAMPLE_SECONDS = 1.0


def busy_share(seconds: float = SAMPLE_SECONDS) -> float:
    """The fraction of all cores' time that is used while this process sleeps so long.

    Linux's pressure (PSI) and load averages are unsuitable: the first counts waiting
    processes, and one that uses all cores alone lets none wait; the second includes the
    previous run for a minute. Time stolen by a hypervisor counts as used.
    """
    before = psutil.cpu_times()
    time.sleep(seconds)
    return used_fraction(before._asdict(), psutil.cpu_times()._asdict())


def used_fraction(before: dict[str, float], after: dict[str, float]) -> float:
    """The used fraction of the time between two readings, in [0, 1].

    >>> used_fraction({"user": 5.0, "idle": 1.0}, {"user": 5.5, "idle": 2.5})
    0.25
    """
    # A guest's time is part of its host's user time.
    passed = {k: after[k] - before[k] for k in after if not k.startswith("guest")}
    total = sum(passed.values())
    idle = passed["idle"] + passed.get("iowait", 0.0)
    return min(1.0, max(0.0, 1 - idle / total)) if total > 0 else 0.0


def may_start(busy: float, waited: float, limit: float) -> bool:
    """Whether a run may start.

    Args:
      busy: fraction that others use.
      waited, limit: seconds, in total before runs so far.
    """
    return busy <= BUSY or waited >= limit


@dataclass
class Quiet:
    """Waits before runs, in total no longer than a limit.

    Args:
      limit: seconds, over all runs; 0 never waits.
      say: called once when a wait starts, and when it reaches the limit.
      busy: fraction of all cores that others use, sampled for some time.
      now: monotonic seconds.
    """

    limit: float
    say: Callable[[str], None]
    busy: Callable[[], float] = busy_share
    now: Callable[[], float] = time.monotonic
    waited: float = field(default=0.0, init=False)

    def wait(self) -> float:
        """Wait until a run may start; returns the fraction that others use then."""
        busy = self.busy()
        if may_start(busy, self.waited, self.limit):
            return busy
        left = self.limit - self.waited
        self.say(
            f"waiting for up to {left:.0f} s (study.wait_minutes): other processes use "
            f"{busy:.0%} of the cores"
        )
        waited, begin = self.waited, self.now()
        while not may_start(busy, self.waited, self.limit):
            busy = self.busy()
            self.waited = waited + self.now() - begin
        if busy > BUSY:
            self.say(
                f"other processes still use {busy:.0%} of the cores: continuing; "
                "cells.jsonl records it for each run"
            )
        return busy
