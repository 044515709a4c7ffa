"""Mirrors of the record: Weights & Biases, TensorBoard, or nothing.

`metrics.jsonl` in the run folder is authoritative. A tracker repeats it, row by row, on
rank 0 only, in a separate thread; if a tracker fails, training and the record continue.
Neither wandb nor tensorboard is imported before a run asks for it.
"""

import logging
import os
import shlex
import shutil
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from recipe.config import Config, leaves
from recipe.errors import ConfigError
from record import wandb_settings

# The prefix of a kind of row in trackers.
NAMESPACES = {
    "step": "train",
    "window": "window",
    "round": "round",
    "federated": "federated",
    "evaluation": "test",
}

Row = dict[str, Any]


class Tracker(Protocol):
    """Mirrors one run's record."""

    def log(self, row: Row) -> None:
        """Mirror one row of `metrics.jsonl`."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Mirror `summary.json` and close; `summary["status"]` says how it ended."""


def open_tracker(
    config: Config,
    *,
    run_dir: Path,
    framework: str,
    world_size: int,
    resolved: dict[str, Any],
    environment: dict[str, Any],
    rows: Sequence[Row] = (),
) -> "Mirror":
    """The tracker that `config.tracking` names; call on rank 0 alone.

    Args:
      run_dir: the run folder, which exists; a tracker writes inside it only.
      resolved: the whole config as plain values, as `config.yaml` holds it.
      environment: versions and hardware, as the record holds them.
      rows: the record so far, of a resumed run.

    Never raises because of a tracker: one that fails, here or later, is reported once
    on the logger "duet" and dropped.
    """
    details = {
        **resolved,
        "framework": framework,
        "world_size": world_size,
        "environment": environment,
    }
    return Mirror(config, run_dir, details, rows)


def check_tracking(config: Config) -> None:
    """Refuse invalid W&B variables before anything starts.

    Raises:
      ConfigError: if one is malformed; or if the config contains W&B's API key, which
        would be recorded: names the config key, not the secret.
    """
    if config.tracking.name == "wandb":
        wandb_settings.check_variables()
    key = os.environ.get("WANDB_API_KEY")
    for name, value in leaves(asdict(config)):
        if key and key in str(value):
            raise ConfigError(
                f"{name} contains the value of WANDB_API_KEY, and would be written to "
                "the record; the variable alone is enough"
            )


def named(row: Row) -> Row:
    """A row's metrics under their names in trackers.

    >>> named({"kind": "evaluation", "step": 20, "accuracy": 0.9})
    {'test/accuracy': 0.9}
    """
    namespace = NAMESPACES[row["kind"]]
    return {
        f"{namespace}/{name}": value
        for name, value in row.items()
        if name not in ("kind", "step")
    }


class Mirror:
    """Wraps a tracker, so that its failure costs a warning, never the run.

    Rows are sent in a thread: W&B takes .17 ms for each, in which the next steps would
    wait (benchmarks/recording.py). One thread keeps them in order.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        details: dict[str, Any],
        rows: Sequence[Row],
    ):
        self._name, self._run_dir = config.tracking.name, run_dir
        self._failed = False
        self._tracker: Tracker = _Nothing()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        try:
            self._tracker = TRACKERS[self._name](config, run_dir, details, rows)
        except Exception as cause:
            self._warn(cause)

    def log(self, *rows: Row) -> None:
        """Queue rows of `metrics.jsonl`; returns at once."""
        if self._name != "none":
            self._thread.submit(self._log, rows)

    def catch_up(self) -> None:
        """Wait until the tracker has every row so far."""
        self._thread.submit(lambda: None).result()

    def finish(self, summary: dict[str, Any]) -> None:
        """Send all queued rows, then `summary.json`, and close."""
        self._thread.shutdown()
        # Also after a failure: what reached the tracker before it is kept.
        try:
            self._tracker.finish(summary)
        except Exception as cause:
            self._warn(cause)

    def _log(self, rows: Sequence[Row]) -> None:
        try:
            for row in rows:
                if not self._failed:
                    self._tracker.log(row)
        except Exception as cause:
            self._warn(cause)

    def _warn(self, cause: Exception) -> None:
        if not self._failed:
            logging.getLogger("duet").warning(
                "tracking=%s failed and is dropped (%s: %s); training continues, and "
                "the run folder %s stays complete",
                self._name,
                type(cause).__name__,
                cause,
                self._run_dir,
            )
        self._failed = True


class _Nothing:
    def __init__(self, *_: object):
        pass

    def log(self, row: Row) -> None:
        pass

    def finish(self, summary: dict[str, Any]) -> None:
        pass


class _WandB:
    """Offline without a key or network, unless WANDB_MODE says otherwise.

    When a run resumes, W&B gets all rows of the record that it lacks; they replace what
    was stored offline. Rows on the server can only be rewound by a feature in private
    preview, so steps that it has are not sent again, and stay as they were sent.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        details: dict[str, Any],
        rows: Sequence[Row],
    ):
        import wandb

        attempts = list((run_dir / "wandb").glob("*run-*"))
        waiting = [path for path in attempts if _waits(path)]

        # Global as well as per run: the login speaks before the run has settings.
        quiet = wandb.Settings(**wandb_settings.shared_settings())
        shared = wandb.setup(quiet).settings
        here = wandb_settings.must_stay_here(shared.mode, shared.base_url)
        tracking = config.tracking

        def begin(mode: Literal["offline"] | None) -> wandb.Run:
            wandb.setup(quiet)
            return wandb.init(
                dir=run_dir,
                id=wandb_settings.run_id(run_dir),
                resume="allow",
                reinit="create_new",  # never write into a run that someone else opened
                mode=mode,
                project=tracking.project,
                entity=tracking.entity,
                name=os.environ.get("WANDB_NAME") or run_dir.name,
                group=tracking.group or config.name,
                job_type=wandb_settings.job_type(),
                tags=[
                    details["framework"],
                    config.precision.name,
                    config.parallel.name,
                    f"world_size={details['world_size']}",
                    config.name,
                    *wandb_settings.tags(tracking.tags),
                ],
                config=details,
                settings=wandb.Settings(**wandb_settings.settings()),
            )

        try:
            self._run = begin("offline" if here else None)
        except (
            wandb.Error
        ) as error:  # the server's, of the key, the entity, the project
            if here or shared.mode != "online" or wandb.run is not None:
                raise
            wandb_settings.stays_offline(error)
            wandb.teardown()  # its service holds the id; this process has no other run
            for path in {*(run_dir / "wandb").glob("*run-*")} - {*attempts}:
                shutil.rmtree(path)  # else it would pass for a synced one
            self._run = begin("offline")
        # wandb's own step counts calls to `log`; several rows have the same step.
        self._run.define_metric("step")
        for namespace in NAMESPACES.values():
            self._run.define_metric(f"{namespace}/*", step_metric="step")

        self._sent = 0  # the last step that W&B has
        resumed = _resumption(rows)
        if not self._run.offline:
            self._sent = self._run.summary.get("step", 0)
        elif waiting != attempts and resumed is not None:
            # The server cannot be asked here: what an earlier attempt stored is in
            # these folders.
            self._sent, waiting = resumed["again_until"], []
        for row in _mirrored(rows):
            self.log(row)
        if rows and not self._run.disabled:
            for path in waiting:
                shutil.rmtree(path)

    def log(self, row: Row) -> None:
        if row["step"] > self._sent:
            self._run.log({"step": row["step"], **named(row)})

    def finish(self, summary: dict[str, Any]) -> None:
        from wandb.util import make_safe_for_json

        folder = Path(self._run.sync_dir)
        words = ["wandb", "sync", str(folder.parent)]  # everything stored, in order
        stays_here = self._run.offline
        try:
            # A bare NaN would arrive as null; the server knows these spellings.
            self._run.summary.update(make_safe_for_json(summary))
            self._run.finish(exit_code=0 if summary["status"] == "finished" else 1)
        except Exception:
            if not stays_here:
                words = ["wandb", "sync", "--include-online", str(folder)]
            stays_here = True
            raise
        finally:
            if stays_here:
                print("W&B is offline; to upload the run:")
                print(shlex.join(words), flush=True)


def _waits(attempt: Path) -> bool:
    """Whether a W&B folder of one attempt has not been synced."""
    return attempt.name.startswith("offline-") and not any(attempt.glob("*.synced"))


def _mirrored(rows: Sequence[Row]) -> list[Row]:
    """The rows that trackers mirror."""
    return [row for row in rows if row["kind"] in NAMESPACES]


def _resumption(rows: Sequence[Row]) -> Row | None:
    """The row of the last resume."""
    return next((row for row in reversed(rows) if row["kind"] == "resume"), None)


class _TensorBoard:
    """Event files under `tensorboard/`, one for each start of the run.

    A resumed run starts its file with the event that makes TensorBoard drop the steps
    that are done again. Written record by record: tensorboard's `EventFileWriter` would
    do, but it imports TensorFlow if that is installed, which must not enter a training
    process.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        details: dict[str, Any],
        rows: Sequence[Row],
    ):
        # Its names are created at import, where pyright does not see them.
        from tensorboard.compat.proto.event_pb2 import (
            Event,  # pyright: ignore[reportAttributeAccessIssue]
            SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = run_dir / "tensorboard"
        folder.mkdir(exist_ok=True)
        before = len(list(folder.iterdir()))
        # TensorBoard reads files in the order of names, which clocks must not change.
        name = f"events.out.tfevents.{before:06d}.{socket.gethostname()}"
        self._event = Event
        self._writer = RecordWriter((folder / name).open("xb"))
        self._write(file_version="brain.Event:2")
        resumed = _resumption(rows)
        if before and resumed is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(step=resumed["step"] + 1, session_log=start)
        elif resumed is not None:  # in a new folder
            for row in _mirrored(rows):
                self.log(row)

    def log(self, row: Row) -> None:
        values = [
            {"tag": tag, "simple_value": float(value)}
            for tag, value in named(row).items()
            if value is not None and not isinstance(value, list)
        ]
        self._write(step=row["step"], summary={"value": values})
        if row["kind"] != "step":
            self._writer.flush()  # once a window, so that a running page follows

    def finish(self, summary: dict[str, Any]) -> None:
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())


TRACKERS = {"none": _Nothing, "tensorboard": _TensorBoard, "wandb": _WandB}
