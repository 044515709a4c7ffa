"""What is known of a run before its first step, and the summary that starts with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.config import Config, ablated, recipe_hash
from recipe.weights import new_head
from record.metrics import median_throughput
from record.schema import SCHEMA_VERSION


@dataclass(frozen=True)
class Compilation:
    """How the steps were compiled.

    Args:
      seconds: spent on it.
      cached: whether all of it came from a cache.
    """

    seconds: float
    cached: bool


@dataclass(frozen=True, kw_only=True)
class RunMetadata:
    """What is known of a run before its first step.

    Args:
      framework: "torch" or "jax".
      devices: of this process, by name.
      rank, processes, world_size: this process, their number, and that of the devices.
      parameters: number of trained parameters.
      data_fingerprint: of the dataset.
      compilation: of the steps; None where they run eagerly.
      startup_seconds: from process start until ready to train, without compiling.
      settings: what the twin set of its framework, by name.
    """

    framework: str
    devices: list[str]
    rank: int
    processes: int
    world_size: int
    parameters: int
    data_fingerprint: str
    compilation: Compilation | None
    startup_seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)


def initial_summary(
    config: Config, metadata: RunMetadata, path: Path, steps: int
) -> dict[str, Any]:
    """The fields of `summary.json` before the first step.

    Args:
      path: the run folder.
      steps: optimizer steps that a resumed run has already done.
    """
    compilation = metadata.compilation
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "failed",
        "error": None,
        "framework": metadata.framework,
        "experiment": config.name,
        "data": config.data.name,
        "model": config.model.name,
        "parallel": config.parallel.name,
        "precision": config.precision.name,
        "deterministic": config.deterministic,
        "compiled": compilation is not None,
        "ablated": ablated(config),
        "resumed_anyway": [],
        "world_size": metadata.world_size,
        "processes": metadata.processes,
        "global_batch_size": config.train.global_batch_size,
        "parameters": metadata.parameters,
        "new_head": new_head(config),
        "steps": steps,
        "skipped_steps": 0,
        "images_per_second": median_throughput([]),
        "compile_seconds": 0.0 if compilation is None else compilation.seconds,
        "compile_cached": None if compilation is None else compilation.cached,
        "startup_seconds": metadata.startup_seconds,
        "test": None,
        "peak_memory_bytes": None,
        "data_fingerprint": metadata.data_fingerprint,
        "config_hash": recipe_hash(config),
        "run_dir": str(path),
    }
