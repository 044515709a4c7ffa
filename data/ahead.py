"""What the next steps need, prepared while the device computes those before.

At the start of a window the device has done the one before, and would wait while the
host plans and places batches.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What steps need, prepared early.

    Args:
      prepare: maps steps to what they need, a function of them alone: so it does not
        matter when it is called, nor whether what it returned was ever used.
    """

    def __init__(self, prepare: Callable[[range], T]):
        self._prepare = prepare
        self._ready: dict[range, T] = {}

    def look(self, steps: range) -> None:
        """Prepare what these steps need, if there are any; forget all else."""
        self._ready = {steps: self._prepare(steps)} if steps else {}

    def take(self, steps: range) -> T:
        """What these steps need: prepared before, or now."""
        if steps not in self._ready:
            self.look(steps)
        return self._ready.pop(steps)
