"""Runs made by hand, as the twins would leave them."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recipe.batch_plan import BatchPlan
from recipe.config import Config, identity_parts, recipe_hash, to_yaml
from recipe.errors import DivergedError
from recipe.execution import CheckpointConfig, ParallelConfig, RunConfig, TrackingConfig
from recipe.experiment import (
    DataConfig,
    ModelConfig,
    TunedConfig,
)
from recipe.optimizers import OptimConfig
from recipe.training import PrecisionConfig, ScheduleConfig, TrainConfig
from recipe.weights import Weights
from record.checkpoint import CheckpointWriter
from record.clock import Times
from record.environment import describe_environment
from record.folder import create_folder
from record.metadata import Compilation, RunMetadata
from record.recorder import Recorder
from tests.record.checkpoints import checkpoint

DEVICES = ["cpu 0", "cpu 1"]
ENVIRONMENT = describe_environment("jax", DEVICES)
METADATA = RunMetadata(
    framework="jax",
    devices=DEVICES,
    rank=0,
    processes=2,
    world_size=4,
    parameters=2570,
    data_fingerprint="5e" * 32,
    compilation=Compilation(3.25, cached=False),
    startup_seconds=1.5,
)

# NaN and infinities where a run that ends well can have them.
LOSSES = [2.5, 2.0, 1.5, 1 / 3]
NORMS = [0.1, math.nan, math.inf, -math.inf]
SCORES = {
    **{"loss": 0.7, "accuracy": 0.75, "precision": 0.5, "recall": 0.5, "f1": 0.5},
    "confusion": [[3, 1], [0, 0]],
}
WEIGHTS = {
    "dense.0.kernel": np.linspace(-1, 1, 2560, dtype=np.float32).reshape(256, 10),
    "dense.0.bias": np.array([-0.0, 1e-45, *range(8)], np.float32),
}


def config(tracker: str, **fields) -> Config:
    return Config(
        name="an-experiment",
        data=DataConfig(
            name="digits",
            root="datasets",
            image_shape=[16, 16, 1],
            classes=10,
            mean=[0.0],
            std=[1.0],
        ),
        model=ModelConfig(name="linear"),
        optim=OptimConfig(name="sgd", peak_lr=0.1),
        schedule=ScheduleConfig(name="constant"),
        precision=PrecisionConfig(name="fp32"),
        parallel=ParallelConfig(name="dp"),
        tracking=TrackingConfig(name=tracker, **fields),
        tuned=TunedConfig(sgd=0.1, adamw=0.001),
        train=TrainConfig(steps=400, global_batch_size=8),
        checkpoint=CheckpointConfig(),
        run=RunConfig(),
    )


def recipe(folder: Path | str | None) -> Config:
    """Four steps of 8 examples, two to an epoch, an evaluation after each epoch."""
    train = TrainConfig(steps=4, global_batch_size=8, log_every_steps=2)
    run = RunConfig(dir=None if folder is None else str(folder))
    return replace(config("none"), train=train, run=run)


def write_run(
    folder: Path,
    *,
    rank: int = 0,
    losses: list[float] = LOSSES,
    scores: dict = SCORES,
    weights: Weights = WEIGHTS,
    average: Weights | None = None,
    measured: tuple[int, ...] = (),
    rounds: Sequence[tuple[int, int, np.ndarray]] = (),
) -> Recorder:
    """What the twins' training loop does with a recorder, and nothing else.

    Args:
      average: of the weights, as optim.ema_decay has one.
      measured: first steps of windows of two that are timed after the training.
      rounds: of local SGD, in any window.
    """
    run = recipe(folder)
    arrays = {"weights": weights}
    if average is not None:
        run = replace(run, optim=replace(run.optim, ema_decay=0.9))
        (folder / "config.yaml").write_text(to_yaml(run))
        arrays["average"] = average
    plan = BatchPlan.of(run, examples=16)
    metadata = replace(METADATA, rank=rank)
    with Recorder(folder, run, plan, metadata) as recorder:
        for window in plan.windows(run.train.log_every_steps, 1):
            steps = slice(window.steps.start, window.steps.stop)
            recorder.stop_if(recorder.failure is not None)
            recorder.window(
                window,
                Times([0.25, 0.5], 0.125, 0.0625),
                losses=np.array(losses[steps], np.float32),
                learning_rates=[0.1, 0.05],
                grad_norms=np.array(NORMS[steps]),
                loss_scales=[8.0, 4.0],
                skipped=[True, False],
                rounds=[met for met in rounds if met[0] - 1 in window.steps],
            )
            recorder.evaluation(window, scores)
        recorder.trained(arrays, peak_memory_bytes=2**30)
        for start in measured:
            steps = range(start, start + 2)
            recorder.measured(steps, Times([0.1], 0.025, 0.05))
        recorder.finish()
        recorder.stop_if(recorder.failure is not None)
    return recorder


def contents(folder: Path) -> dict:
    """All that touching a folder would change."""
    return {
        path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in [folder, *folder.rglob("*")]
    }


def finished(path: Path) -> None:
    write_run(create_folder(recipe(path), "jax"))


def diverged(path: Path) -> None:
    with contextlib.suppress(DivergedError):
        write_run(create_folder(recipe(path), "jax"), losses=[math.nan] * 4)


def interrupted(folder: Path, *saved: int) -> Path:
    """A run of four steps that was killed before its summary, and its checkpoints."""
    finished(folder)
    for name in "summary.json", "final.safetensors":
        (folder / name).unlink()
    with CheckpointWriter(folder, keep=9) as writer:
        for step in saved:
            writer.save(of_run(folder, step))
    return folder


def of_run(folder: Path, step: int):
    return checkpoint(
        step,
        recipe=identity_parts(recipe(folder)),
        config_hash=recipe_hash(recipe(folder)),
        data_fingerprint=METADATA.data_fingerprint,
        test=None,
    )
