"""Mirrors of the record: Weights & Biases, TensorBoard, or nothing.

`metrics.jsonl` in the run folder is the truth. A tracker repeats it, row by row, on
rank 0 only, in a thread of its own; whatever happens to a tracker, training and the
record go on. Neither wandb nor tensorboard is imported before a run asks for it.
"""

import logging
import os
import shlex
import shutil
import socket
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from recipe.config import Config, leaves
from recipe.errors import ConfigError

NETWORK_SECONDS = 2.0  # for one connection, before W&B may count on a network
UPLOAD_SECONDS = 120.0  # an idle allocation costs more than a later `wandb sync`

# What a kind of row is called where its metrics meet those of other runs.
NAMESPACES = {"step": "train", "window": "window", "evaluation": "test"}

Row = dict[str, Any]


class Tracker(Protocol):
    """A mirror of one run's record."""

    def log(self, row: Row) -> None:
        """Repeat one row of `metrics.jsonl`."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Repeat `summary.json` and close; `summary["status"]` says how it ended."""


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
      run_dir: the run folder, which exists; whatever a tracker writes lies inside.
      resolved: the whole config as plain values, as `config.yaml` holds it.
      environment: versions and hardware, as the record holds them.
      rows: the record so far, where the run goes on.

    Never raises for a tracker's sake: one that fails, here or later, is reported once
    on the logger "duet" and left behind.
    """
    details = {
        **resolved,
        "framework": framework,
        "world_size": world_size,
        "environment": environment,
    }
    return Mirror(config, run_dir, details, rows)


def check_no_key(config: Config) -> None:
    """Refuse a config that holds W&B's key, as the record would.

    Raises:
      ConfigError: naming where it is, and not the key.
    """
    key = os.environ.get("WANDB_API_KEY")
    for name, value in leaves(asdict(config)):
        if key and key in str(value):
            raise ConfigError(
                f"{name} holds what WANDB_API_KEY does, and would be written to the "
                "record; the variable alone is enough"
            )


def named(row: Row) -> Row:
    """A row's metrics under the names that trackers show.

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
    """A tracker whose failure costs a warning, never the run.

    Rows are repeated in a thread: W&B takes .17 ms for each, while the next steps wait
    (benchmarks/recording.py). One thread, so that they stay in order.
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
        """Repeat rows of `metrics.jsonl`, soon; returns at once."""
        if self._name != "none":
            self._thread.submit(self._log, rows)

    def catch_up(self) -> None:
        """Wait until the tracker has every row so far."""
        self._thread.submit(lambda: None).result()

    def finish(self, summary: dict[str, Any]) -> None:
        """Repeat all rows that wait, then `summary.json`, and close."""
        self._thread.shutdown()
        # After a failure too: what reached the tracker before it is worth closing.
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
                "tracking=%s failed and is left behind (%s: %s); training goes on, and "
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
    """Offline where there is no key or no network, unless WANDB_MODE says otherwise.

    Where a run goes on, W&B gets all of the record that it lacks. What waits offline is
    replaced by it. What is on the server can be taken back there alone, by a feature in
    private preview: steps that it has are not sent again, and show as they were sent.
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
        shared = wandb.setup(wandb.Settings(silent=True, quiet=True)).settings
        tracking = config.tracking
        self._run = wandb.init(
            dir=run_dir,
            id=_wandb_id(run_dir),
            resume="allow",
            reinit="create_new",  # never write into a run that someone else opened
            mode="offline" if must_stay_here(shared.mode, shared.base_url) else None,
            project=tracking.project,
            entity=tracking.entity,
            name=run_dir.name,
            group=tracking.group or config.name,
            job_type="train",
            tags=[
                details["framework"],
                config.precision.name,
                config.parallel.name,
                f"world_size={details['world_size']}",
                config.name,
                *tracking.tags,
            ],
            config=details,
            save_code=False,
            settings=wandb.Settings(
                console="off",  # the screen belongs to rich
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                x_disable_stats=True,  # a sampler beside a timed step would be timed
                finish_timeout=UPLOAD_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        # wandb's own step counts calls to `log`; three rows may share one of ours.
        self._run.define_metric("step")
        for namespace in NAMESPACES.values():
            self._run.define_metric(f"{namespace}/*", step_metric="step")

        self._sent = 0  # the last step that W&B has
        resumed = _resumption(rows)
        if not self._run.offline:
            self._sent = self._run.summary.get("step", 0)
        elif waiting != attempts and resumed is not None:
            # Nobody can ask the server: what an earlier attempt was to send is there.
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
        words = ["wandb", "sync", str(folder.parent)]  # all that waits, in order
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
    """Whether a folder of W&B's, of one attempt, is on this disk alone."""
    return attempt.name.startswith("offline-") and not any(attempt.glob("*.synced"))


def _mirrored(rows: Sequence[Row]) -> list[Row]:
    """The rows that trackers show."""
    return [row for row in rows if row["kind"] in NAMESPACES]


def _resumption(rows: Sequence[Row]) -> Row | None:
    """Where the run last went on."""
    return next((row for row in reversed(rows) if row["kind"] == "resume"), None)


def _wandb_id(run_dir: Path) -> str:
    """The id under which this folder's run is known, however often it is resumed."""
    path = run_dir / "wandb_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12] + "\n")
    return path.read_text().strip()


def must_stay_here(configured_mode: str, base_url: str) -> bool:
    """Whether W&B is to be offline: nobody chose, and there is no key or no network."""
    if os.environ.get("WANDB_MODE") or configured_mode != "online":
        return False  # the user has decided
    from wandb.sdk.lib import wbauth

    credentials = wbauth.authenticate_session(
        host=base_url, source="duet", prompt=False, update_session=False
    )
    return credentials is None or not _reachable(base_url)


def _reachable(url: str) -> bool:
    """Whether a connection to the server, or the proxy before it, opens in time."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname, port), NETWORK_SECONDS):
            return True
    except OSError:
        return False


class _TensorBoard:
    """Event files under `tensorboard/`, one for each time the run is opened.

    A resumed run begins its own with the event at which TensorBoard drops the steps
    that are done again. Written record by record: tensorboard's `EventFileWriter` would
    do, but imports TensorFlow wherever it is installed, and that must not enter a
    training process.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        details: dict[str, Any],
        rows: Sequence[Row],
    ):
        # Its names are made when it is imported, where pyright does not see them.
        from tensorboard.compat.proto.event_pb2 import (
            Event,  # pyright: ignore[reportAttributeAccessIssue]
            SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = run_dir / "tensorboard"
        folder.mkdir(exist_ok=True)
        before = len(list(folder.iterdir()))
        # In the order of its names it reads them, which no clock is to change.
        name = f"events.out.tfevents.{before:06d}.{socket.gethostname()}"
        self._event = Event
        self._writer = RecordWriter((folder / name).open("xb"))
        self._write(file_version="brain.Event:2")
        resumed = _resumption(rows)
        if before and resumed is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(step=resumed["step"] + 1, session_log=start)
        elif resumed is not None:  # in another folder than it was begun in
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
