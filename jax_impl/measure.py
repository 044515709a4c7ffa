"""More steps after the training, timed alone; what it came to lies in the record."""

import time
from collections.abc import Callable
from typing import Any

from jax_impl.parallel import World
from recipe.timing import Pace
from record.recorder import Recorder
from runtime.heartbeat import Heartbeat
from runtime.signals import Stopping


def measure(
    pace: Pace,
    issue: Callable[[range], tuple[Any, Any, float, float]],
    wait: Callable[[], None],
    record: Recorder,
    stopping: Stopping,
    heartbeat: Heartbeat,
    world: World,
) -> None:
    """Time windows of further steps until there are enough, or a rank is to stop.

    Args:
      issue: steps, as the training does; returns, last, the seconds that the host took
        to place their batches and to dispatch them.
      wait: until the device has done what was issued.
    """
    asked = False
    while not (pace.enough or asked):
        window = pace.window()
        begin = time.perf_counter()
        host = [issue(steps)[2:] for steps in window]
        wait()
        seconds = time.perf_counter() - begin
        data_seconds, dispatch_seconds = map(sum, zip(*host, strict=True))

        flags = record.failure is not None, stopping.asked() is not None
        own = [seconds, data_seconds, dispatch_seconds, *flags]
        ranks = world.ranks.gather(own)
        counts = pace.took(ranks[:, 0].max())
        asked = ranks[:, 4].max() > 0
        heartbeat.progress(slow=pace.enough or asked)
        record.stop_if(ranks[:, 3].max() > 0)
        if counts:
            record.measured(
                range(window[0].start, window[-1].stop),
                seconds=ranks[:, 0],
                data_seconds=ranks[:, 1].max(),
                dispatch_seconds=ranks[:, 2].max(),
            )
