"""Checkpoints: all that a run needs to resume, in either framework, at any world size.

RUN/checkpoints/step-00000020/ holds

    weights.safetensors  parameters and running statistics
    STATE.safetensors    of the optimizer, such as momentum or adam.m; same names
    average.safetensors  of the weights, where optim.ema_decay keeps one; same names
    outer.safetensors, outer.momentum.safetensors, replicas.KIND.safetensors
                         of local SGD: of the rounds, and of every replica, each array
                         with a first axis of replicas; weights are the result
    manifest.json        the other fields of a checkpoint, and the SHA-256 of each file
    COMMITTED            the SHA-256 of the manifest; written last

so that one number verifies everything; a folder without it is not a checkpoint. Nothing
in a checkpoint can execute: it is JSON and safetensors.
"""

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import safetensors.numpy
from safetensors import SafetensorError

from recipe.errors import RecordError
from recipe.weights import Weights
from record.disk import (
    checked_object,
    folder_to_disk,
    locked,
    parse_json,
    recording,
    to_json,
    write_file,
    write_whole,
)
from record.schema import (
    CHECKPOINT,
    CHECKPOINT_FILE,
    CHECKPOINT_TEST,
    NUMBER,
    strict_json,
)

CHECKPOINT_VERSION = 2
READABLE = (1, 2)
FOLDER, MANIFEST, MARKER = "checkpoints", "manifest.json", "COMMITTED"
_NAME = re.compile(r"step-(\d{8,})")
_SLOT_FILE = re.compile(r"(\w[\w.]*)\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after one of its steps.

    Args:
      step: optimizer steps done.
      epoch: the current pass over the training set, from 1.
      framework, world_size: of the run that wrote it; only local SGD depends on them,
        on the latter.
      config_hash: of the recipe.
      recipe: the recipe itself, by key, to report what differs; see `record/resume.py`.
      data_fingerprint: of the dataset.
      arrays: kind of state -> canonical name -> array in canonical layout. "weights"
        are the parameters and running statistics, "average" their average, the others
        the optimizer's state, or as above of local SGD.
      state: scalars, such as the loss scale; exact in JSON.
      test: the last evaluation's metrics, and `step`, when that was.
    """

    step: int
    epoch: int
    framework: str
    world_size: int
    config_hash: str
    recipe: dict[str, Any]
    data_fingerprint: str
    arrays: dict[str, Weights]
    state: dict[str, int | float]
    test: dict[str, Any] | None

    def manifest(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON."""
        fields = {k: v for k, v in vars(self).items() if k != "arrays"}
        return strict_json({"schema_version": CHECKPOINT_VERSION, **fields})


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}"


def checkpoint_step(path: Path) -> int | None:
    """The step in a checkpoint folder's name; None for any other name."""
    named = _NAME.fullmatch(path.name)
    return int(named[1]) if named else None


class CheckpointWriter:
    """Writes a run's checkpoints; a context manager.

    Entering locks the folder, so that a second run given the same one is refused, and
    removes what a killed writer has left.

    Args:
      run: the run folder, which exists.
      keep: how many of the newest checkpoints are kept; the one with the best test
        score of its own step is kept beside them.

    Raises:
      RecordError: if another process writes there, or on a disk error.
    """

    def __init__(self, run: Path, keep: int):
        self.run, self._keep = run, keep
        self._lock: TextIO | None = None

    def __enter__(self) -> Self:
        folder = self.run / FOLDER
        with recording(folder):
            folder.mkdir(exist_ok=True)
            self._lock = locked(folder / ".lock")
        try:
            self._clear_leftovers()
        except BaseException:
            self.close()
            raise
        return self

    def _clear_leftovers(self) -> None:
        with recording(self.run / FOLDER):
            for path in (self.run / FOLDER).iterdir():
                unmarked = checkpoint_step(path) is not None and not _marked(path)
                if path.name.startswith(".saving-") or unmarked:
                    _remove(path)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint atomically, then remove those that are no longer kept.

        Raises:
          RecordError: on a disk error; nothing of it is left then, and all older
            checkpoints are unchanged.
        """
        folder = checkpoint_folder(self.run, checkpoint.step)
        fresh = folder.with_name(f".saving-{uuid.uuid4().hex}")
        with recording(folder):
            try:
                fresh.mkdir()
                digest = _write_content(fresh, checkpoint)
                _remove(folder)  # the same step, from before the run was resumed
                fresh.rename(folder)
                folder_to_disk(folder.parent)
                write_whole(folder / MARKER, digest.encode())
            except BaseException:
                for half in (fresh, *(() if _marked(folder) else (folder,))):
                    shutil.rmtree(half, ignore_errors=True)
                raise
            self._prune()
        return folder

    def discard_after(self, step: int) -> None:
        """Remove checkpoints beyond a step: a resumed run does those steps again."""
        with recording(self.run / FOLDER):
            for path in _newest_first(self.run):
                if (checkpoint_step(path) or 0) > step:
                    _remove(path)

    def _prune(self) -> None:
        paths = saved_checkpoints(self.run)
        best = _best(paths)
        for path in paths[self._keep :]:
            if path != best:
                _remove(path)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()  # which unlocks it, as the end of the process does

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_checkpoint(path: Path, whole: bool = True) -> Checkpoint:
    """A checkpoint, every byte of it verified.

    Args:
      whole: whether to read the arrays; otherwise the manifest alone.

    Raises:
      RecordError: if it is not a checkpoint, is incomplete, or was changed; naming the
        file.
    """
    manifest = _read_manifest(path)
    arrays = {}
    files = manifest.pop("files")
    if whole:
        for name, entry in files.items():
            arrays[name.removesuffix(".safetensors")] = _read_arrays(path / name, entry)
    if "weights.safetensors" not in files:
        raise RecordError(f"{path} holds no weights.safetensors")
    del manifest["schema_version"]
    return Checkpoint(arrays=arrays, **manifest)


def newest_checkpoint(
    run: Path, whole: bool = True
) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint of a run, and why each newer one was skipped."""
    skipped: list[str] = []
    for path in _newest_first(run):
        try:
            return read_checkpoint(path, whole), skipped
        except RecordError as error:
            skipped.append(str(error))
    return None, skipped


def best_checkpoint(run: Path) -> Path | None:
    """The valid one with the best test score of its own step, if there is any."""
    return _best(saved_checkpoints(run))


def saved_checkpoints(run: Path) -> list[Path]:
    """Those that are complete by their marker, the newest first."""
    return [path for path in _newest_first(run) if _marked(path)]


def _newest_first(run: Path) -> list[Path]:
    folder = run / FOLDER
    with recording(folder, "read"):
        found = list(folder.iterdir()) if os.path.lexists(folder) else []
    steps = {path: checkpoint_step(path) for path in found}
    numbered = [(step, path) for path, step in steps.items() if step is not None]
    return [path for _, path in sorted(numbered, reverse=True)]


def _write_content(folder: Path, checkpoint: Checkpoint) -> str:
    """Write a checkpoint's files, but no marker; returns the manifest's SHA-256."""
    files = {}
    for name, arrays in checkpoint.arrays.items():
        content = safetensors.numpy.save(arrays)
        files[f"{name}.safetensors"] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }
        write_file(folder / f"{name}.safetensors", content)
    content = to_json({**checkpoint.manifest(), "files": files})
    write_file(folder / MANIFEST, content)
    folder_to_disk(folder)
    return hashlib.sha256(content).hexdigest()


def _remove(folder: Path) -> None:
    """The marker first, so that a half-removed checkpoint never passes for whole.

    A link or a stray file with a checkpoint's name is unlinked, not followed.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        (folder / MARKER).unlink(missing_ok=True)
        folder_to_disk(folder)
        shutil.rmtree(folder)


def _read_manifest(path: Path) -> dict[str, Any]:
    """A manifest that matches its marker, with every field present."""
    if not path.is_dir():
        raise RecordError(f"{path} is not a checkpoint folder")
    if not _marked(path):
        raise RecordError(f"{path} has no {MARKER}: writing it was interrupted")
    file = path / MANIFEST
    with recording(file, "read"):
        content, marker = file.read_bytes(), (path / MARKER).read_bytes()
    if hashlib.sha256(content).hexdigest().encode() != marker.strip():
        raise RecordError(f"{file} was changed: its SHA-256 is not the one in {MARKER}")
    manifest = checked_object(parse_json(content, file), CHECKPOINT, str(file))
    if manifest["schema_version"] not in READABLE:
        raise RecordError(
            f"{file} has schema {manifest['schema_version']}; "
            f"this version of Duet reads {READABLE[0]} to {READABLE[-1]}"
        )
    if manifest["step"] != checkpoint_step(path):
        raise RecordError(
            f"{file} is of step {manifest['step']}, which its folder's name contradicts"
        )
    for name, entry in manifest["files"].items():
        if not _SLOT_FILE.fullmatch(name):
            raise RecordError(
                f"{file} lists {name!r}, which is not a file of a checkpoint"
            )
        checked_object(entry, CHECKPOINT_FILE, f"{file}, {name}")
    if manifest["test"] is not None:
        checked_object(manifest["test"], CHECKPOINT_TEST, f"{file}, test")
    for name, value in manifest["state"].items():
        if type(value) not in NUMBER:
            raise RecordError(f"{file}: {name} is {value!r}, expected a number")
    return manifest


def _read_arrays(path: Path, entry: dict[str, Any]) -> Weights:
    with recording(path, "read"):
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise RecordError(f"{path} has {size} bytes of {entry['bytes']}")
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise RecordError(
            f"{path} was changed: its SHA-256 is not the one in the manifest"
        )
    try:
        return safetensors.numpy.load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: {error}") from error


def _marked(path: Path) -> bool:
    return os.path.isfile(path / MARKER)


def _best(paths: list[Path]) -> Path | None:
    """The one with the best test score, of those evaluated at their own step."""
    scored = []
    for path in paths:
        with contextlib.suppress(RecordError):  # an unreadable one is not the best
            manifest = _read_manifest(path)
            test = manifest["test"]
            if test is not None and test["step"] == manifest["step"]:
                # NaN losses do not compare.
                loss = test["loss"] if test["loss"] == test["loss"] else float("inf")
                scored.append((test["accuracy"] or 0.0, -loss, manifest["step"], path))
    return max(scored)[-1] if scored else None
