"""The log of a rank: a file in the run folder, with warnings also on the screen."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

LOGGER = logging.getLogger("duet")


@contextlib.contextmanager
def open_log(path: Path, rank: int) -> Iterator[None]:
    """Log to `logs/rank*.log` of a run folder while the context is open.

    If that file cannot be made, the run continues without it.
    """
    handlers: list[logging.Handler] = []
    with contextlib.suppress(OSError):
        (path / "logs").mkdir(exist_ok=True)
        handlers.append(logging.FileHandler(path / "logs" / f"rank{rank}.log"))
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    handlers.append(screen)
    form = logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(message)s")
    for handler in handlers:
        handler.setFormatter(form)
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()
