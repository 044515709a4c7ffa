"""Timing after the training: extra steps, in windows of about equal time."""

from dataclasses import dataclass

from recipe.config import Config

WINDOWS = 5  # at least
LONGEST = 2.0  # seconds of a window: very long ones would run into the timeout
PILOTS = 2  # windows that only measure how long a step takes


def steps_of_window(seconds: float, step_seconds: float, most: int) -> int:
    """Number of steps that take about so long.

    Args:
      seconds: of the window.
      step_seconds: of a step.
      most: steps that are issued at once, as in training: a window has fewer, or a
        multiple of them.

    >>> steps_of_window(0.6, 0.01, 20), steps_of_window(0.6, 0.05, 20)
    (60, 12)
    >>> steps_of_window(0.6, 7.0, 20)
    1
    """
    steps = max(1, round(seconds / step_seconds))
    return steps if steps < most else round(steps / most) * most


@dataclass
class Pace:
    """The windows in which a run is timed; the same on all ranks.

    Two pilots come first: a single step, then as many as fill a window by that time.
    All windows after them have the same number of steps.

    Args:
      seconds: to be timed in total; None: no window at all.
      log_every_steps: `train.log_every_steps`, issued at once.
      step: the first to be taken, from 0.
    """

    seconds: float | None
    log_every_steps: int
    step: int
    pilots: int = PILOTS
    windows: int = 0
    timed: float = 0.0
    steps: int = 1  # of the next window

    @classmethod
    def of(cls, config: Config, step: int) -> "Pace":
        return cls(config.train.timed_seconds, config.train.log_every_steps, step)

    @property
    def enough(self) -> bool:
        if self.seconds is None:
            return True
        return self.windows >= WINDOWS and self.timed >= self.seconds

    def window(self) -> list[range]:
        """The next window's steps, in groups that are issued at once."""
        stop = self.step + self.steps
        starts = range(self.step, stop, self.log_every_steps)
        return [range(s, min(s + self.log_every_steps, stop)) for s in starts]

    def took(self, seconds: float) -> bool:
        """Note how long the slowest rank took for the window, and move to the next.

        Returns:
          Whether that window counts; a pilot does not.
        """
        self.step += self.steps
        if self.pilots == 0:
            self.windows += 1
            self.timed += seconds
            return True
        assert self.seconds is not None  # without any window
        self.pilots -= 1
        length = min(self.seconds / WINDOWS, LONGEST)
        self.steps = steps_of_window(length, seconds / self.steps, self.log_every_steps)
        return False
