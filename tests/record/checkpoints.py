"""Checkpoints made by hand, and how two are compared."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from record.checkpoint import Checkpoint

TEST = {
    **{"step": 20, "loss": 0.7, "accuracy": 0.75, "precision": 0.5, "recall": 0.5},
    **{"f1": 0.5, "confusion": [[3, 1], [0, 0]]},
}
CALLS = ("fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


def checkpoint(step: int = 20, numbers: int = 6, **changes) -> Checkpoint:
    """One whose every number depends on its step."""
    kernel = (np.arange(numbers, dtype=np.float32) + step).reshape(2, -1)
    return replace(
        Checkpoint(
            step=step,
            epoch=1 + step // 100,
            framework="jax",
            world_size=2,
            config_hash="c0" * 32,
            recipe={"train": {"seed": 0, "global_batch_size": 8}},
            data_fingerprint="5e" * 32,
            arrays={
                "weights": {"dense.0.kernel": kernel, "norm.mean": kernel[0]},
                "momentum": {"dense.0.kernel": -kernel.astype(np.float64)},
            },
            state={"loss_scale": 65536.0, "finite_steps": step},
            test=TEST,
        ),
        **changes,
    )


def vouch(path: Path, manifest: object) -> None:
    """A manifest that the marker vouches for, whoever wrote it."""
    content = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "COMMITTED").write_text(hashlib.sha256(content).hexdigest())


def steps(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.glob("checkpoints/step-*"))


def assert_same(read: Checkpoint | None, written: Checkpoint) -> None:
    assert read is not None
    assert read.manifest() == written.manifest()
    assert read.arrays.keys() == written.arrays.keys()
    for slot, arrays in written.arrays.items():
        for name, array in arrays.items():
            assert read.arrays[slot][name].dtype == array.dtype
            np.testing.assert_array_equal(read.arrays[slot][name], array)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
