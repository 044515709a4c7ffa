"""The run folder: where it is made, for one run alone, and what comes to lie in it.

    config.yaml        the resolved config
    environment.json   versions, devices, host, git commit, command
    metrics.jsonl      one row per step, timed window and evaluation
    summary.json       what the run came to; written last
    final.safetensors  the weights, or their average; canonical names and layouts
    last.safetensors   the weights, where final.safetensors is their average
    trace-N.safetensors  what went on in step N, where train.trace asks for it
    logs/rank*.log     each rank its own
    checkpoints/       what the run can go on from, see `record/checkpoint.py`

Rank 0 alone writes, by `record/recorder.py`, as the run goes; whoever asks later reads,
by `record/run.py`. `record/schema.py` has every field. The folder is the truth;
trackers and the screen repeat what is written here.
"""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

from recipe.config import Config, to_yaml
from recipe.errors import RecordError
from record.checkpoint import FOLDER, checkpoint_step
from record.disk import recording
from record.run import read_summary
from record.stopping import STOP
from runtime.processes import Processes


def check_folder(config: Config) -> None:
    """Refuse a `run.dir` that is occupied or cannot be written; touches nothing.

    Raises:
      RecordError: saying what is there, and how to go on.
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
        return  # a run may be told to stop before it has its folder
    held, more = "files of something else", ""
    if (path / "summary.json").exists():
        status = read_summary(path)["status"]
        held = f"a {status} run"
        if status == "finished":
            more = f"; to train it on: {_how_to_train_on(path)}"
    elif (path / "config.yaml").exists():
        held = "a run without an end"
    elif (path / "parity.json").exists():
        held = "a parity check"
    raise RecordError(
        f"run.dir={path} already holds {held}; nothing is overwritten: choose another "
        f"run.dir, or move that folder away{more}"
    )


def _how_to_train_on(path: Path) -> str:
    if any(checkpoint_step(kept) for kept in path.glob(f"{FOLDER}/*")):
        return f"run.resume={path}, another run.dir, and more train.epochs"
    return (
        f"model.weights={path / 'final.safetensors'} and another run.dir, with an "
        "optimizer that starts anew, as no checkpoint of its state was due "
        "(checkpoint.every_steps, .every_minutes, .at_end)"
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
            except FileExistsError:  # another run began in this second
                number += 1
                path = path.with_name(f"{config.name}-{framework}-{now}-{number}")


def folder_of_launch(config: Config, framework: str, processes: Processes) -> Path:
    """Where a run goes that torchrun starts again, without `run.dir`, until it is done.

    Each try is a process that knows nothing of those before but torchrun's own id.
    """
    start, end = f"{config.name}-{framework}", processes.launch
    if processes.restart:
        before = sorted(Path("runs").glob(f"{start}-*-{end}"))
        if before:
            return before[-1]
    return Path("runs", f"{start}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{end}")


def _claim(path: Path, config: Config) -> None:
    """Write the config where none is: of two runs given one folder, one has it."""
    try:
        with recording(path), (path / "config.yaml").open("x") as file:
            file.write(to_yaml(config))
    except RecordError as error:
        if isinstance(error.__cause__, FileExistsError):
            raise RecordError(
                f"run.dir={path} was taken by another run just now; choose another"
            ) from None
        # A full disk: half a config would occupy the folder of a run that never was.
        with contextlib.suppress(OSError):
            (path / "config.yaml").unlink(missing_ok=True)
            if config.run.dir is None:
                path.rmdir()
        raise
