"""Where a run resumes, and whether it may: the recipe has to be the same.

`record/rewind.py` then makes the folder ready for it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from recipe.config import Config, from_yaml, identity_parts, leaves
from recipe.errors import ConfigError, RecordError
from recipe.execution import Strategy
from recipe.local_rounds import state_shapes
from recipe.norms import has_local_norm
from recipe.optimizers import optimizer_state
from recipe.weights import (
    Shape,
    Weights,
    is_updated,
    weight_dtype,
    weight_shapes,
)
from record.checkpoint import (
    Checkpoint,
    checkpoint_folder,
    checkpoint_step,
    newest_checkpoint,
    read_checkpoint,
)
from record.disk import read_text, recording
from record.folder import check_folder
from record.length import LENGTH, how_to_extend, is_extendable
from record.rows import whole_rows
from record.run import FINAL, read_summary

ABSENT = "nothing"


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Where a run resumes.

    Args:
      folder: the run folder in which the record continues.
      source: the run folder whose rows lead there; most often the same.
      checkpoint: None where the run was interrupted before its first.
      skipped: why each newer checkpoint was not taken.
      differences: from the checkpoint's recipe, allowed by `run.resume_anyway`.
    """

    folder: Path
    source: Path
    checkpoint: Checkpoint | None
    skipped: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Optimizer steps already done."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    def messages(self) -> list[str]:
        """Lines that tell the user where it resumes."""
        return [
            *(f"skipped: {reason}" for reason in self.skipped),
            *(f"resumed anyway: {difference}" for difference in self.differences),
            f"{self.folder} resumes after step {self.step}",
        ]


def resume_point(
    config: Config,
    data_fingerprint: str | None = None,
    world_size: int | None = None,
    whole: bool = True,
) -> Resume | None:
    """Resolve `run.resume`; None for a new run. Changes nothing.

    `auto` resumes the interrupted run in `run.dir`, if there is one. A path is that of
    a run folder, meaning its newest valid checkpoint, or of one checkpoint. Without
    `run.dir` the record continues in the checkpoint's run folder; with another folder,
    it starts with a copy of the rows up to the checkpoint. Once that other folder has
    checkpoints of its own, the same command resumes from those, so one command line can
    be started again and again. A `run.dir` with a run that was not started from that
    path is refused.

    Args:
      data_fingerprint, world_size: of this run; None if not known yet.
      whole: whether to read checkpoints, or for now their manifests alone.

    Raises:
      RecordError: if there is nothing to resume from, or the recipe differs; then with
        the difference, key by key.
    """
    places = [p for p in (config.run.dir, config.run.resume) if p]
    try:
        with recording(Path(places[0]), "read"):
            found = _found(config, whole)
    except RuntimeError as error:  # from pathlib, for links in a circle
        raise RecordError(f"{' or '.join(places)}: {error}") from error
    if found is None:
        check_folder(config)
        return None
    _refuse_trace(config, found.folder)
    _refuse_other_replicas(config, world_size, found)
    differences = _differences(config, data_fingerprint, world_size, found)
    if differences and not config.run.resume_anyway:
        hint = ""
        if any(difference.startswith(LENGTH) for difference in differences):
            hint = f". {how_to_extend(config, _weights(found))}"
        raise RecordError(
            f"{found.source} cannot be resumed, as it would not be the same run: "
            f"{'; '.join(differences)}. Give the same value, choose another run.dir, "
            f"or set run.resume_anyway=true, which the record will show{hint}"
        )
    return replace(found, differences=tuple(differences))


def _found(config: Config, whole: bool) -> Resume | None:
    """Where to resume, without comparing recipes."""
    given = config.run.resume
    own = None if config.run.dir is None else Path(config.run.dir).absolute()
    if given in ("auto", "never"):
        resumes = given == "auto" and own is not None and was_interrupted(own)
        return _newest(own, own, whole) if own is not None and resumes else None
    path = Path(os.path.abspath(given))
    if checkpoint_step(path) is None:
        path = path.resolve()
    source = path if checkpoint_step(path) is None else path.parent.parent
    own = own or source
    forks = own.resolve() != source.resolve()
    # Started from there before: the same command, repeated, resumes here.
    held = was_interrupted(own)
    again = held and (
        _started_from(own, path, source) if forks else _asked_for(own) == given
    )
    if again:
        started = _newest(own, own, whole)
        if started.checkpoint is not None:
            return started
    _check_resumable(given, path, source)
    if forks and held and not again:
        raise RecordError(
            f"run.dir={own} holds an interrupted run that was not started from "
            f"run.resume={given}; leave run.resume out to resume that run, or "
            f"choose another run.dir to start from {given}"
        )
    if forks and not again:
        check_folder(config)
    elif not forks and (source / "summary.json").exists():
        refuse_finished(source)
    if path == source:
        found = _newest(own, source, whole)
    else:
        checkpoint = read_checkpoint(path, whole)
        found = Resume(folder=own, source=source, checkpoint=checkpoint)
    if found.checkpoint is None:
        reasons = "".join(f"; {reason}" for reason in found.skipped)
        raise RecordError(f"run.resume={given} holds no valid checkpoint{reasons}")
    return found


def was_interrupted(folder: Path) -> bool:
    """Whether a folder holds a run that neither finished nor diverged."""
    if not (folder / "config.yaml").is_file():
        return False
    if not (folder / "summary.json").exists():
        return True
    return read_summary(folder)["status"] not in ("finished", "diverged")


def _refuse_trace(config: Config, folder: Path) -> None:
    """A traced step is a run's last, so it may not end a run that was to be longer."""
    step, there = config.train.trace, (folder / "config.yaml").is_file()
    if step is not None and there and config_of(folder).train.trace != step:
        raise RecordError(
            f"train.trace={step} would end the run in {folder} at that step; trace it "
            f"in a run.dir of its own, from the start or with run.resume={folder}"
        )


def refuse_finished(folder: Path) -> None:
    """Refuse to overwrite a finished run.

    Raises:
      RecordError: if the folder holds a finished run.
    """
    if read_summary(folder)["status"] == "finished":
        raise RecordError(
            f"{folder} holds a finished run; nothing is overwritten: give another "
            "run.dir to continue from it, and more train.epochs"
        )


def _check_resumable(given: str, path: Path, source: Path) -> None:
    """Refuse a `run.resume` that leads to no checkpoint, and say why."""
    allowed = "auto, never, or the path of a run folder or of one of its checkpoints"
    if not path.exists():
        is_word = Path(given).name == given
        what = "is neither auto nor never nor a path" if is_word else "does not exist"
        raise RecordError(f"run.resume={given} {what}; give {allowed}")
    if path != source or any(source.glob("checkpoints/step-*")):
        return  # reading them shows whether they are valid
    if not (path / "config.yaml").is_file():
        raise RecordError(f"run.resume={given} is not a run folder; give {allowed}")
    if was_interrupted(source):
        raise RecordError(
            f"run.resume={given} was interrupted before its first checkpoint; "
            f"run.dir={given} with run.resume=auto starts it again"
        )
    status, weights = read_summary(source)["status"], source / FINAL
    hint = "lower checkpoint.every_steps"
    if weights.exists():
        hint = f"model.weights={weights} starts a new run from its weights"
    raise RecordError(
        f"run.resume={given} {status} before a checkpoint was due, and has none; {hint}"
    )


def _asked_for(folder: Path) -> str:
    """The `run.resume` that a run was last started with."""
    return config_of(folder).run.resume


def _started_from(folder: Path, path: Path, source: Path) -> bool:
    """Whether a run started with another run's rows up to a path there.

    If it was killed before copying them, its config tells.
    """
    if Path(_asked_for(folder)).resolve() == path.resolve():
        return True
    steps = [
        row.get("step")
        for row in whole_rows(folder / "metrics.jsonl")
        if row.get("kind") == "resume"
        and Path(str(row.get("source"))).resolve() == source.resolve()
    ]
    return bool(steps) if path == source else checkpoint_step(path) in steps


def _newest(folder: Path, source: Path, whole: bool) -> Resume:
    checkpoint, skipped = newest_checkpoint(source, whole)
    return Resume(
        folder=folder, source=source, checkpoint=checkpoint, skipped=tuple(skipped)
    )


def _differences(
    config: Config, data_fingerprint: str | None, world_size: int | None, found: Resume
) -> list[str]:
    """How what is asked for differs from before, key by key."""
    if found.checkpoint is not None:
        before, data = found.checkpoint.recipe, found.checkpoint.data_fingerprint
    else:
        before, data = identity_parts(config_of(found.source)), None
    was, asked = dict(leaves(before)), dict(leaves(identity_parts(config)))
    free = LENGTH if is_extendable(config, was) else ()
    differences = [
        f"{key} is {asked.get(key, ABSENT)}, was {was.get(key, ABSENT)}"
        for key in sorted(was.keys() | asked.keys())
        if was.get(key, ABSENT) != asked.get(key, ABSENT) and key not in free
    ]
    devices = None if found.checkpoint is None else found.checkpoint.world_size
    one = None in (devices, world_size) or devices == world_size
    if has_local_norm(config) and not one:
        differences.append(
            f"world_size is {world_size}, was {devices}, and model.norm.sync=false "
            "takes each device's statistics alone"
        )
    if None not in (data, data_fingerprint) and data != data_fingerprint:
        differences.append(f"the data's SHA-256 is {data_fingerprint}, was {data}")
    return differences


def _refuse_other_replicas(
    config: Config, world_size: int | None, found: Resume
) -> None:
    """Each device has a replica of its own, which no others of them could take.

    Nor could `run.resume_anyway` help.
    """
    checkpoint, local = found.checkpoint, config.parallel.name == Strategy.LOCAL_SGD
    if checkpoint is None or world_size is None:
        return
    was_local = bool(checkpoint.recipe.get("parallel"))
    if local != was_local and max(world_size, checkpoint.world_size) > 1:
        names = {True: "replicas that train alone", False: "one model on all devices"}
        raise RecordError(
            f"{found.source} cannot be resumed with parallel={config.parallel.name}: "
            f"its optimizer state is of {names[was_local]}, and would have to be of "
            f"{names[local]}; give the same parallel=, or choose another run.dir"
        )
    if local and checkpoint.world_size != world_size:
        raise RecordError(
            f"{found.source} cannot be resumed: world_size is {world_size}, was "
            f"{checkpoint.world_size}, and parallel=local_sgd trains a replica on each "
            f"device; start it on {checkpoint.world_size} devices, or choose another "
            "run.dir"
        )


def _weights(found: Resume) -> str:
    """The file of a run's latest weights."""
    final = found.source / FINAL
    if final.exists() or found.checkpoint is None:
        return str(final)
    return str(checkpoint_folder(found.source, found.step) / "weights.safetensors")


def config_of(folder: Path) -> Config:
    """The config of a run folder.

    Raises:
      RecordError: if it cannot be read.
    """
    file = folder / "config.yaml"
    try:
        return from_yaml(read_text(file))
    except ConfigError as error:
        raise RecordError(f"{file}: {error}") from error


def fitting(
    config: Config, path: str, checkpoint: Checkpoint, world_size: int = 1
) -> Checkpoint:
    """A checkpoint in the recipe's dtype.

    Args:
      world_size: devices of this run; only local SGD needs it.

    Raises:
      RecordError: if it is of another model or optimizer, which `run.resume_anyway`
        cannot help with.
    """
    shapes = weight_shapes(config)
    trained = {n: shape for n, shape in shapes.items() if is_updated(config, n)}
    kept = dict.fromkeys(optimizer_state(config.optim), trained)
    wanted = {"weights": shapes, **kept}
    if config.parallel.name == Strategy.LOCAL_SGD:
        wanted = {"weights": shapes, **state_shapes(config, world_size)}
    if config.optim.ema_decay is not None and "average" in checkpoint.arrays:
        wanted["average"] = shapes
    for kind, expected in wanted.items():
        check_fit(
            f"{path} does not fit: in {kind},",
            checkpoint.arrays.get(kind, {}),
            expected,
            "ask for the checkpoint's model, optimizer and strategy",
        )
    dtype = weight_dtype(config)

    def own(arrays: Weights) -> Weights:
        return {name: array.astype(dtype) for name, array in arrays.items()}

    arrays = {kind: own(checkpoint.arrays[kind]) for kind in wanted}
    return replace(checkpoint, arrays=arrays)


def check_fit(
    place: str, arrays: Weights, expected: Mapping[str, Shape], advice: str
) -> None:
    """Refuse arrays of other names or shapes than are expected.

    Args:
      place, advice: how the message begins, and what it says to do.

    Raises:
      RecordError: naming the first that differs, and both shapes.
    """
    held = {name: array.shape for name, array in arrays.items()}
    if held != expected:
        odd = min(n for n in {*held, *expected} if held.get(n) != expected.get(n))
        raise RecordError(
            f"{place} {odd} is {held.get(odd, ABSENT)}, "
            f"needed {expected.get(odd, ABSENT)}; {advice}"
        )
