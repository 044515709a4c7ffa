"""How a run that was asked to stop ends: its error, and the marker to requeue it.

It is asked by a signal or by a file STOP in the run folder: `runtime/signals.py`.
"""

import contextlib
import signal
from pathlib import Path

from recipe.errors import StoppedError
from record.disk import recording, to_json, write_whole

STOP, REQUEUE = "STOP", "REQUEUE"


def stopped_error(folder: Path | None, step: int, reason: str) -> StoppedError:
    """The error that a run ends with after it was asked to stop; says how to resume.

    Args:
      folder: the run's; None where it has none yet.
      step: after which it resumes.
      reason: "SIGTERM", "STOP" or "another rank".
    """
    outcome = "nothing was started"
    if folder is not None:
        outcome = (
            f"saved after step {step}. To resume: the same command with "
            f"run.dir={folder}"
        )
    error = StoppedError(f"asked to by {reason}; {outcome}")
    if reason == signal.SIGINT.name:
        error.exit_status = 128 + signal.SIGINT
    return error


def mark_requeue(folder: Path, step: int, reason: str) -> None:
    """Write the file that tells a batch script to start the same command again.

    The exit status cannot tell: torchrun's is 1 even if its workers exited cleanly. The
    script removes the file of an earlier start before the next.

        rm -f "$RUN_DIR/REQUEUE"
        srun ...
        test -e "$RUN_DIR/REQUEUE" && scontrol requeue "$SLURM_JOB_ID"

    A STOP file is then obsolete, and is removed.

    Raises:
      RecordError: if the folder cannot be written.
    """
    with recording(folder):
        write_whole(folder / REQUEUE, to_json({"step": step, "reason": reason}))
        with contextlib.suppress(FileNotFoundError):
            (folder / STOP).unlink()
