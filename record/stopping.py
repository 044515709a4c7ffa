"""How a run that was asked to stop leaves: its error, and the marker to requeue it.

`runtime/signals.py` says who asks; a file STOP in the run folder does too.
"""

import contextlib
import signal
from pathlib import Path

from recipe.errors import StoppedError
from record.disk import recording, to_json, write_whole

STOP, REQUEUE = "STOP", "REQUEUE"


def stopped_error(folder: Path | None, step: int, reason: str) -> StoppedError:
    """What a run leaves with that was asked to stop, with its way back in.

    Args:
      folder: the run's; None where it has none yet.
      step: after which it goes on.
      reason: "SIGTERM", "STOP" or "another rank".
    """
    said = "nothing was begun"
    if folder is not None:
        said = (
            f"saved after step {step}. To go on: the same command with run.dir={folder}"
        )
    error = StoppedError(f"asked to by {reason}; {said}")
    if reason == signal.SIGINT.name:
        error.exit_status = 128 + signal.SIGINT
    return error


def mark_requeue(folder: Path, step: int, reason: str) -> None:
    """Leave the file that tells a batch script to start the same command again.

    The exit status cannot: torchrun's is 1 though its workers left in good order. What
    an earlier start has left is the script's to remove before it starts the next.

        rm -f "$RUN_DIR/REQUEUE"
        srun ...
        test -e "$RUN_DIR/REQUEUE" && scontrol requeue "$SLURM_JOB_ID"

    A STOP file is done with then, and is removed.

    Raises:
      RecordError: if the folder cannot be written.
    """
    with recording(folder):
        write_whole(folder / REQUEUE, to_json({"step": step, "reason": reason}))
        with contextlib.suppress(FileNotFoundError):
            (folder / STOP).unlink()
