"""MNIST, Fashion-MNIST and CIFAR through TensorFlow Datasets, in their published order.

TFDS stores examples sorted by a hash of their key, salted with the split's name. In
these four datasets the key is the example's index in the published files, so TFDS's own
hasher recovers it; examples of CIFAR also contain their index as `id`, which has to
agree.

Datasets prepared as array_record are read without TensorFlow; to build one, or to read
tfrecord, TFDS needs it. `data.acquire` alone imports this.
"""

import contextlib
import importlib
import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data.arrays import Arrays
from recipe.errors import DataError

INSTEAD = "or use data.source=torchvision, which gives the same arrays"
FOLDERS = (
    "TFDS_DATA_DIR",
    "~/tensorflow_datasets",
)  # where TFDS prepares them by default


def prepared(name: str, places: Sequence[Path]) -> Path | None:
    """The newest version in a root's folder tfds, or in TFDS's default folder."""
    variable, default = FOLDERS
    own = Path(os.environ.get(variable) or default).expanduser()
    for folder in *(place / "tfds" for place in places), own:
        found = (folder / name).glob("*.*.*/dataset_info.json")
        folders = [path.parent for path in found]
        if folders:
            return max(folders, key=lambda folder: _version(folder.name))
    return None


def build(name: str, archives: Path | None, private: Path, advice: str) -> Path:
    """Let TFDS prepare a dataset.

    Args:
      archives: a folder that holds the published files; None downloads them.
      private: a folder for everything that TFDS writes.
      advice: the advice in error messages.

    Returns:
      The folder of the prepared dataset.

    Raises:
      DataError: if TensorFlow is missing, or with TFDS's error.
    """
    tfds = _tfds()
    _require_tensorflow(f"to build {name}, TFDS")
    from tensorflow_datasets.core.download import downloader

    downloader.MAX_RETRIES = 3  # ten take minutes without a network
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # of threads that keep trying
    settings = tfds.download.DownloadConfig(
        manual_dir=archives or private / "none", try_download_gcs=False
    )
    try:
        with _quiet(tfds):
            builder = tfds.builder(name, data_dir=private, file_format="array_record")
            builder.download_and_prepare(
                download_dir=private / "downloads", download_config=settings
            )
    except Exception as error:  # TFDS and its downloader raise errors of many classes
        raise DataError(
            f"TFDS cannot build {name}: {_line(error)}; {advice}"
        ) from error
    return Path(builder.data_dir)


def read(folder: Path) -> Arrays:
    """The arrays of a prepared dataset, in their published order.

    Raises:
      DataError: naming the folder, if it cannot be read or has another order.
    """
    tfds = _tfds()
    try:
        with _quiet(tfds):
            builder = tfds.builder_from_directory(folder)
            stored_as = builder.info.file_format
            if stored_as not in tfds.core.FileFormat.with_random_access():
                _require_tensorflow(f"{folder} holds {stored_as.value}, for which TFDS")
            return Arrays(*_split(builder, "train"), *_split(builder, "test"))
    except DataError:
        raise
    except Exception as error:  # from formats, features and the image decoder
        raise DataError(
            f"{folder} cannot be read: {_line(error)}; delete it, to have it built "
            "again"
        ) from error


def version() -> str:
    return _tfds().__version__


def _split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    count = builder.info.splits[split].num_examples
    images = np.empty((count, *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(count, np.int32)
    for place, example in zip(
        _places(split, count), _stored(builder, split), strict=True
    ):
        images[place], labels[place] = example["image"], example["label"]
        expected = f"{split}_{place:05d}".encode()
        if example.get("id", expected) != expected:
            raise DataError(
                f"{builder.data_dir}: {example['id'].decode()} is where "
                f"{expected.decode()} is expected, so this is not TFDS's order; "
                f"delete the folder, to have it built again, {INSTEAD}"
            )
    return images, labels


def _places(split: str, count: int) -> list[int]:
    """The published index of each stored example, in stored order."""
    from tensorflow_datasets.core.hashing import Hasher

    return sorted(range(count), key=Hasher(split).hash_key)


def _stored(builder: Any, split: str) -> Iterable[dict[str, Any]]:
    tfds = _tfds()
    if builder.info.file_format in tfds.core.FileFormat.with_random_access():
        return builder.as_data_source(split)
    one_by_one = tfds.ReadConfig(
        interleave_cycle_length=1
    )  # else shards are interleaved
    return tfds.as_numpy(builder.as_dataset(split=split, read_config=one_by_one))


def _tfds() -> ModuleType:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f"data.source=tfds needs the package {error.name}; install the extra with "
            f"`pip install -e '.[tfds]'`, {INSTEAD}"
        ) from error
    return tensorflow_datasets


def _require_tensorflow(who: str) -> None:
    for key, value in ("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_ENABLE_ONEDNN_OPTS", "0"):
        os.environ.setdefault(key, value)  # both silence its output
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        raise DataError(
            f"{who} needs TensorFlow; install it by `pip install -e '.[tfds-build]'`, "
            f"put the dataset as array_record into data.root/tfds, {INSTEAD}"
        ) from error


@contextlib.contextmanager
def _quiet(tfds: ModuleType) -> Iterator[None]:
    """Its output before a failure would bury the one line that helps."""
    tfds.disable_progress_bar()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in name.split("."))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
