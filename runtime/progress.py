"""How long the ranks of a run may go without synchronising."""

from recipe.execution import ParallelConfig


class Progress:
    """Counts the time since the ranks last synchronised.

    At the start, and where `slow` says so, `start_timeout_seconds` are allowed; else
    `timeout_seconds`, or ten times the longest so far if that is more.

    Args:
      beat_seconds: between two calls of `beat`.
    """

    def __init__(self, config: ParallelConfig, beat_seconds: float):
        self._usual, self._start = config.timeout_seconds, config.start_timeout_seconds
        self.allowed_seconds = self._start
        self._beat_seconds, self._longest_seconds, self._beats = beat_seconds, 0.0, 0

    def reached(self, slow: bool) -> None:
        """Note that they have synchronised.

        Args:
          slow: whether what follows may take as long as a start.
        """
        if self.allowed_seconds != self._start:
            self._longest_seconds = max(self._longest_seconds, self._waited_seconds())
        self._beats = 0
        usual = min(self._start, max(self._usual, 10 * self._longest_seconds))
        self.allowed_seconds = self._start if slow else usual

    def beat(self) -> bool:
        """Count a beat; returns whether the ranks have now waited too long."""
        self._beats += 1
        return self._waited_seconds() > self.allowed_seconds

    def _waited_seconds(self) -> float:
        return self._beats * self._beat_seconds
