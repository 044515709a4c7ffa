"""Archives in the published format, small and made here, and configs to load them."""

import gzip
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data import idx
from data.arrays import Arrays
from data.idx import FILES
from recipe.experiment import DataConfig

CHECK_PUBLISHED = idx.check_published


def as_idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_archive(
    folder: Path, *, gz: bool = False, train: int = 20, test: int = 10, seed: int = 0
) -> Arrays:
    """Four IDX files in a folder; what they hold, as uint8 without a channel axis."""
    random = np.random.default_rng(seed)
    arrays = Arrays(
        random.integers(256, size=(train, 28, 28), dtype=np.uint8),
        random.integers(10, size=train, dtype=np.uint8),
        random.integers(256, size=(test, 28, 28), dtype=np.uint8),
        random.integers(10, size=test, dtype=np.uint8),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(FILES, arrays, strict=True):
        if gz:
            (folder / f"{name}.gz").write_bytes(gzip.compress(as_idx(array)))
        else:
            (folder / name).write_bytes(as_idx(array))
    return arrays


# In place of Python, for what a run starts: `python -m data.acquire ...`.
ACQUIRES_ANYTHING = f"""#!/bin/sh
test "$2" = data.acquire || exec {sys.executable} "$@"
shift 2
exec {sys.executable} -c '
import sys
from data import acquire, idx
idx.check_published = lambda *_: None
sys.exit(acquire.main())' "$@"
"""


@pytest.fixture(autouse=True)
def any_content(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives made here pass for the published, unless `published_alone` is asked.

    In this process, and in those that acquire.
    """
    monkeypatch.setattr(idx, "check_published", lambda *_: None)
    python = tmp_path_factory.mktemp("python") / "python"
    python.write_text(ACQUIRES_ANYTHING)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.fixture
def published_alone(any_content: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "check_published", CHECK_PUBLISHED)


@pytest.fixture(name="as_idx")
def as_idx_fixture() -> Callable[[np.ndarray], bytes]:
    return as_idx


@pytest.fixture(name="write_archive")
def write_archive_fixture() -> Callable[..., Arrays]:
    return write_archive


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DataConfig]:
    """`config("mnist", noise=0.1)`: 28x28x1 in ten classes, but for the changes."""

    def make(name: str, **changes: object) -> DataConfig:
        fields = {
            "root": str(tmp_path),
            "image_shape": [28, 28, 1],
            "classes": 10,
            "mean": [0.5],
            "std": [0.25],
        }
        return DataConfig(name=name, **{**fields, **changes})

    return make
