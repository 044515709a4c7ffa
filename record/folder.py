"""The run folder: where it is made, for one run alone, and what it contains.

    config.yaml        the resolved config
    environment.json   versions, devices, host, git commit, command
    metrics.jsonl      one row per step, timed window and evaluation
    summary.json       the run's results; written last
    final.safetensors  the weights, or their average; canonical names and layouts
    last.safetensors   the weights, where final.safetensors is their average
    trace-N.safetensors  activations and gradients of step N, for train.trace=N
    logs/rank*.log     one for each rank
    checkpoints/       what the run can resume from, see `record/checkpoint.py`
    evaluations/       what launch/evaluate.py found, see `report/evaluation.py`

Rank 0 alone writes, through `record/recorder.py`, while the run goes; `record/run.py`
reads a finished run. `record/schema.py` has every field. The folder is authoritative;
trackers and the screen repeat what is written here.
"""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

from recipe.config import Config, from_yaml, to_yaml
from recipe.errors import ConfigError, RecordError
from record.checkpoint import FOLDER, checkpoint_step
from record.disk import read_text, recording
from record.length import why_not_extendable
from record.run import FINAL, read_summary
from record.stopping import STOP
from runtime.processes import Processes


def check_folder(config: Config) -> None:
    """Refuse a `run.dir` that is occupied or not writable; changes nothing.

    Raises:
      RecordError: saying what is there, and what to do.
    """
    path = Path(config.run.dir or "runs")
    with recording(path):
        if config.run.dir is not None and path.exists():
            _check_empty(path)
        ancestor = path.absolute()
        while not ancestor.exists() and ancestor != ancestor.parent:
            ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise RecordError(
            f"run.dir={path} cannot be made: {ancestor} is a file; choose another"
        )
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise RecordError(
            f"run.dir={path} cannot be written: no write permission in {ancestor}; "
            "choose another, or change its permissions"
        )


def _check_empty(path: Path) -> None:
    if not path.is_dir():
        raise RecordError(f"run.dir={path} is a file; choose another")
    if all(file.name == STOP for file in path.iterdir()):
        return  # a run may be asked to stop before it has its folder
    held, more = "other files", ""
    if (path / "summary.json").exists():
        status = read_summary(path)["status"]
        held = f"a {status} run"
        if status == "finished":
            more = f"; to continue it: {_how_to_continue(path)}"
    elif (path / "config.yaml").exists():
        held = "an unfinished run"
    elif (path / "parity.json").exists():
        held = "a parity check"
    raise RecordError(
        f"run.dir={path} already holds {held}; nothing is overwritten: choose another "
        f"run.dir, or move that folder away{more}"
    )


def _how_to_continue(path: Path) -> str:
    why = ""
    with contextlib.suppress(ConfigError, RecordError):  # which resuming would name
        why = why_not_extendable(from_yaml(read_text(path / "config.yaml")))
    if not any(checkpoint_step(kept) for kept in path.glob(f"{FOLDER}/*")):
        why = (
            "no checkpoint of its state was due (checkpoint.every_steps, "
            ".every_minutes, .at_end)"
        )
    if not why:
        return f"run.resume={path}, another run.dir, and more train.epochs"
    return (
        f"model.weights={path / FINAL} and another run.dir, with an optimizer that "
        f"starts afresh, as {why}"
    )


def create_folder(config: Config, framework: str) -> Path:
    """Make the run folder, `run.dir` or a new one under `runs/`; rank 0 calls this.

    Raises:
      RecordError: if it is occupied or cannot be made.
    """
    check_folder(config)
    if config.run.dir is not None:
        path = Path(config.run.dir).absolute()
        with recording(path):
            path.mkdir(parents=True, exist_ok=True)
        _claim(path, config)
        return path
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = Path("runs", f"{config.name}-{framework}-{now}").absolute()
    number = 1
    while True:
        with recording(path):
            try:
                path.mkdir(parents=True)
                _claim(path, config)
                return path
            except FileExistsError:  # another run started in the same second
                number += 1
                path = path.with_name(f"{config.name}-{framework}-{now}-{number}")


def folder_of_launch(config: Config, framework: str, processes: Processes) -> Path:
    """The run folder of a run without `run.dir` that torchrun may restart.

    All that a restarted process shares with earlier ones is torchrun's run id.
    """
    start, end = f"{config.name}-{framework}", processes.launch
    if processes.restart:
        before = sorted(Path("runs").glob(f"{start}-*-{end}"))
        if before:
            return before[-1]
    return Path("runs", f"{start}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{end}")


def _claim(path: Path, config: Config) -> None:
    """Write the config unless there is one: of two runs in one folder, one gets it."""
    try:
        with recording(path), (path / "config.yaml").open("x") as file:
            file.write(to_yaml(config))
    except RecordError as error:
        if isinstance(error.__cause__, FileExistsError):
            raise RecordError(
                f"run.dir={path} was taken by another run just now; choose another"
            ) from None
        # A full disk: half a config would occupy the folder of a run that never
        # started.
        with contextlib.suppress(OSError):
            (path / "config.yaml").unlink(missing_ok=True)
            if config.run.dir is None:
                path.rmdir()
        raise
