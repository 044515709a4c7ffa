"""Extra steps after the training, run for their time alone."""

from collections.abc import Callable
from itertools import pairwise

from recipe.timing import Pace
from record.clock import Clock, Times
from record.recorder import Recorder
from runtime.agreement import Ranks
from runtime.heartbeat import Heartbeat
from runtime.signals import Stopping


def measure(
    pace: Pace,
    issue: Callable[[range, range, Clock], object],
    wait: Callable[[], None],
    record: Recorder,
    stopping: Stopping,
    heartbeat: Heartbeat,
    ranks: Ranks,
) -> None:
    """Run and time extra windows until there are enough, or a rank must stop.

    Args:
      issue: issues steps and prepares those that follow, as the training does, and
        times these phases on the clock.
      wait: waits until the device has done them.

    Raises:
      RecordError: on every rank, if rank 0 could not record.
    """
    asked = False
    while not (pace.enough or asked):
        window, clock = pace.window(), Clock()
        for steps, following in pairwise([*window, range(0)]):
            issue(steps, following, clock)
        wait()
        clock.stop()

        flags = record.failure is not None, stopping.asked() is not None
        gathered = ranks.gather([*clock.own, *flags])
        times = Times.of(gathered[:, :3])
        counts = pace.took(gathered[:, 0].max())
        asked = gathered[:, 4].max() > 0
        heartbeat.progress(slow=pace.enough or asked)
        record.stop_if(gathered[:, 3].max() > 0)
        if counts:
            record.measured(range(window[0].start, window[-1].stop), times)
