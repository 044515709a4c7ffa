"""Many run folders -> what timing needs of each, read from their summaries alone.

They may be ten thousand, so neither weights nor metrics are read: `summary.json` has
the timed windows, and of `metrics.jsonl` only the end is looked at, to see that it is
all there. What cannot be used is skipped by name.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from recipe.errors import RecordError
from recipe.renamed import FIELDS
from recipe.study import FRAMEWORKS
from record.run import read_environment, read_summary
from record.schema import MOST
from report.analysis.hardware import (
    commit_name,
    device_name,
    machine_name,
    software_name,
)

# Enough for the longest row: a row is some 200 bytes.
TAIL_BYTES = 4096
# What reading a value raises that is missing, or of another kind or size than it was.
DAMAGE = (LookupError, TypeError, ValueError, OverflowError)
# What `ablated` may name, and the part of the step that it disables. Such a run is not
# a training but an ablation: the part is what a whole step takes longer.
GRAD_SYNC = "parallel.grad_sync"
ABLATIONS = {"optim.update": "optimizer", GRAD_SYNC: "exposed communication"}


@dataclass(frozen=True, kw_only=True)
class TimedRun:
    """A finished run with its timed windows; names as in `summary.json`.

    Args:
      path: of the run folder.
      device: what one device is, without its number; on a CPU the processor's name.
      machine, software: what is around the devices, and versions of what computes.
      grad_accum_steps: micro-batches that a global batch is computed in, one after
        another.
      cuda_graphs: whether PyTorch's compiled steps were replayed as CUDA graphs.
      ablated: what its steps are without; empty for a training.
      windows: images/s over all devices of each timed window, warm-up excluded.
      seed: of its training; tells no two repeats apart.
      family: hash of its recipe but for the seed; empty where that was not read.
      varied: keys of the recipe, and their values, in which a sweep's runs differ.
      compile_seconds, startup_seconds: None where they were not taken.
      compile_cached: whether the steps came out of a cache; None where eager.
      peak_memory_bytes: largest of any rank.
      environment: `environment.json`; tells no two runs apart.
    """

    path: Path
    framework: str
    experiment: str
    data: str
    model: str
    precision: str
    parallel: str
    deterministic: bool = False
    compiled: bool = False
    cuda_graphs: bool = False
    device: str
    machine: str
    software: str
    world_size: int
    processes: int
    global_batch_size: int
    grad_accum_steps: int = 1
    ablated: tuple[str, ...] = ()
    parameters: int
    config_hash: str
    data_fingerprint: str
    windows: tuple[float, ...]
    seed: int = 0
    family: str = ""
    varied: tuple[tuple[str, str], ...] = ()
    compile_seconds: float | None = None
    compile_cached: bool | None = None
    startup_seconds: float | None = None
    peak_memory_bytes: int | None = None
    environment: Mapping[str, Any] = field(
        default_factory=dict, compare=False, repr=False
    )

    @cached_property
    def images_per_second(self) -> float:
        """The run's one figure: the median of its timed windows."""
        return float(np.median(self.windows))

    @property
    def commit(self) -> str:
        """The checkout that ran; empty where that is not known."""
        return commit_name(self.environment, 12) if self.environment else ""

    @property
    def of_recipe(self) -> str:
        """What is the same in all repeats, whichever their seeds."""
        return self.family or self.config_hash


@dataclass(frozen=True)
class Skipped:
    """A run folder, or a cell of them, that no figure is made of, and why."""

    name: str
    reason: str


Key = TypeVar("Key")
Read = TypeVar("Read")


def read_each(
    read: Callable[[Key], Read],
    keys: Iterable[Key],
    name: Callable[[Key], str] = str,
    without: str = "",
) -> tuple[dict[Key, Read], list[Skipped]]:
    """What can be read of each, and the others by name with the reason.

    Args:
      without: what is then missing, before the reason.
    """
    found, skipped = {}, []
    for key in keys:
        try:
            found[key] = read(key)
        except RecordError as error:
            reason = str(error)
            for end in " ", ": ":  # the name stands before the reason already
                reason = reason.removeprefix(f"{name(key)}{end}")
            skipped.append(Skipped(name(key), f"{without}{reason}"))
    return found, skipped


@dataclass(frozen=True)
class Found:
    """What lies at or below some folders, each once, in order of name.

    Args:
      runs: run folders: they hold `summary.json`, or `config.yaml` where the run was
        killed. A parity check's are not among them: it trains to compare, in as few
        steps as that takes, and beside its controls.
      checks: folders of parity checks, which hold `parity.json`.
      studies: folders of studies, which hold `study.json`.
      skipped: folders that were not looked into, and why.
    """

    runs: list[Path]
    checks: list[Path]
    studies: list[Path]
    skipped: list[Skipped]


def find(roots: Iterable[Path]) -> Found:
    """Runs, parity checks and studies at or below the given folders.

    Raises:
      RecordError: if a given folder is missing or holds neither run nor check.
    """
    kinds: dict[str, dict[Path, Path]] = {"run": {}, "check": {}, "study": {}}
    skipped: dict[Path, Skipped] = {}
    for root in roots:
        here = list(_walk(root))
        if not any(kind in ("run", "check") for kind, _ in here):
            raise RecordError(
                f"{root} holds no run folder; give folders that launch/pytorch.py, "
                "launch/jax.py or launch/study.py wrote, or any folder above them"
            )
        for kind, path in here:
            if kind in kinds:
                kinds[kind].setdefault(path.resolve(), path)
            else:
                skipped.setdefault(path.resolve(), Skipped(str(path), kind))
    runs, checks, studies = (sorted(paths.values()) for paths in kinds.values())
    return Found(runs, checks, studies, list(skipped.values()))


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """What each folder below is: "run", "check", "study", or why it is skipped."""
    if not root.is_dir():
        raise RecordError(
            f"{root} is not a folder; give run folders, or a folder that contains them"
        )
    seen: set[str] = set()
    unread: list[OSError] = []
    for name, below, files in os.walk(root, onerror=unread.append, followlinks=True):
        folder, real = Path(name), os.path.realpath(name)
        if real in seen:  # by another link, which may lead in a circle
            below.clear()
            continue
        seen.add(real)
        # A folder by its own name before any link to it.
        below.sort(key=lambda part: (os.path.islink(folder / part), part))
        if "parity.json" in files:
            below.clear()
            yield "check", folder
        elif "summary.json" in files or "config.yaml" in files:
            below.clear()  # a tracker's files, which may have such names as well
            yield "run", folder
        elif "study.json" in files:
            yield "study", folder
            for part in list(below):
                if part == "unfinished":
                    below.remove(part)
                    yield "holds starts of a study that were interrupted", folder / part
                elif part.startswith("parity-") and not _judged(folder / part):
                    below.remove(part)
                    yield "is a parity check without a verdict", folder / part
    for error in unread:
        yield f"cannot be read: {error.strerror}", Path(error.filename)


def _judged(folder: Path) -> bool:
    return (folder / "parity.json").exists()


def read_timed_runs(paths: Iterable[Path]) -> tuple[list[TimedRun], list[Skipped]]:
    """The runs that can be timed, and the others with the reason, in the given order.

    A run that was copied, so that its every window is another's to the last digit, is
    skipped as well: it would count as a repeat, and narrow intervals without adding any
    evidence.
    """
    seen: dict[tuple[Any, ...], Path] = {}

    def read(path: Path) -> TimedRun:
        run = read_timed_run(path)
        first = seen.setdefault((run.framework, run.world_size, run.windows), path)
        if first != path:
            raise RecordError(f"is a copy of {first}")
        return run

    runs, skipped = read_each(read, paths)
    return list(runs.values()), skipped


def read_timed_run(path: Path) -> TimedRun:
    """One run folder's timing.

    Raises:
      RecordError: if the run did not finish, has no timed window, or a file of it is
        missing, damaged or truncated.
    """
    if not (path / "summary.json").exists():
        raise RecordError(
            f"{path} has no summary.json: the run was killed, or is still running"
        )
    summary = read_sane_summary(path)
    if summary["status"] != "finished":
        raise RecordError(
            f"{path} holds a run that {summary['status']}: {summary['error']}"
        )
    if summary["resumed_anyway"]:
        raise RecordError(
            f"{path} mixes two recipes (run.resume_anyway): "
            f"{'; '.join(map(str, summary['resumed_anyway']))}"
        )
    windows = summary["images_per_second"].get("windows")
    if not windows:
        raise RecordError(
            f"{path} has no timed window after the first, which is warm-up; train for "
            "more steps, or set a smaller train.log_every_steps"
        )
    if type(windows) is not list or not all(map(_is_rate, windows)):
        held = str(windows)[:60]
        raise RecordError(f"{path}: images_per_second holds no rates: {held}")
    config = config_values(path, perturb_seed=0, grad_accum_steps=1, seed=0)
    micro_batches, control = config["grad_accum_steps"], config["perturb_seed"]
    if not 1 <= micro_batches <= MOST:
        raise RecordError(
            f"{path}: train.grad_accum_steps is {micro_batches}, expected 1 or more"
        )
    # It has the hash of its original, and would pass for a repeat.
    if control:
        raise RecordError(
            f"{path} is a parity check's control (train.perturb_seed={control}), which "
            "is trained alongside others: its speed means nothing"
        )
    _check_metrics_end(path, summary["steps"])
    environment = read_environment(path)
    named = {f.name: summary[f.name] for f in fields(TimedRun) if f.name in summary}
    named["ablated"] = tuple(map(str, summary["ablated"]))
    return TimedRun(
        path=path,
        device=device_name(environment),
        machine=machine_name(environment),
        cuda_graphs=replays_cuda_graphs(summary["framework"], environment),
        software=software_name(summary["framework"], environment),
        windows=tuple(map(float, windows)),
        grad_accum_steps=micro_batches,
        seed=config["seed"],
        environment=environment,
        **named,
    )


def replays_cuda_graphs(framework: str, environment: Mapping[str, Any]) -> bool:
    """Whether a run was PyTorch's with `compile=max`.

    JAX's always are, where XLA uses them (`framework_settings` tells).
    """
    graphs = environment["framework_settings"].get("cuda_graphs")
    return framework == "torch" and bool(graphs)


def read_sane_summary(path: Path) -> dict[str, Any]:
    """A run folder's summary, by whose numbers can be divided.

    Raises:
      RecordError: naming the file or the number.
    """
    summary = read_summary(path)
    if summary["framework"] not in FRAMEWORKS:
        raise RecordError(
            f"{path}: framework is {summary['framework']!r}, expected one of "
            f"{', '.join(FRAMEWORKS)}"
        )
    for name in ("world_size", "processes", "global_batch_size", "parameters"):
        if summary[name] < 1:
            raise RecordError(f"{path}: {name} is {summary[name]}, expected 1 or more")
    if summary["processes"] > summary["world_size"]:
        raise RecordError(
            f"{path}: {summary['processes']} processes for a world size of "
            f"{summary['world_size']}; each has one device or more"
        )
    for name in ("compile_seconds", "startup_seconds", "peak_memory_bytes"):
        value = summary[name]
        if value is not None and not 0 <= value < np.inf:
            raise RecordError(f"{path}: {name} is {value}, expected a finite number")
    return summary


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= MOST


def config_values(path: Path, **defaults: int) -> dict[str, int]:
    """Numbers in `config.yaml`'s groups by name; the default where there is none.

    Keys may have their old names.

    Only their lines are read: parsing YAML takes a hundred times as long as all the
    rest.
    """
    file = path / "config.yaml"
    names = {name: name for name in defaults}
    names |= {old: new for old, new in FIELDS.items() if new in defaults}
    line = rf"^  ({'|'.join(names)}): (\d+)$"
    try:
        text = file.read_text(encoding="utf-8")
        found = re.findall(line, text, re.MULTILINE)
        return defaults | {names[name]: int(number) for name, number in found}
    except (OSError, ValueError) as error:  # no UTF-8, or a number of 4,300 digits
        raise RecordError(f"cannot read {file}: {error}") from error


def _check_metrics_end(path: Path, steps: int) -> None:
    """Refuse a `metrics.jsonl` that does not end with the run's last step."""
    file = path / "metrics.jsonl"
    try:
        with file.open("rb") as metrics:
            metrics.seek(max(0, os.fstat(metrics.fileno()).st_size - TAIL_BYTES))
            tail = metrics.read()
    except OSError as error:
        raise RecordError(f"cannot read {file}: {error.strerror}") from error
    lines = tail.splitlines() if tail.endswith(b"\n") else []
    try:
        last = json.loads(lines[-1])
        # What is measured comes after all that is trained.
        whole = last.get("step") == steps or last.get("measured") is True
    except (ValueError, IndexError, AttributeError):
        whole = False
    if not whole:
        raise RecordError(
            f"{file} is truncated: it does not end with a row of step {steps}, the "
            "last in summary.json"
        )
