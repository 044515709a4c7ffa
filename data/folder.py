"""PNG and JPEG files of classes, at `data.files`: decoded once, then as other data.

Either a folder for each class, below folders `train` and `test` (or `val`) or directly
in `data.files`; or CSV files with the columns `path` and `label`: train.csv and
test.csv (or val.csv) in `data.files`, or one that `data.files` names. What is not
divided into training and test images is split by a seed, each class by itself.

The arrays do not depend on where the files are, nor on which of these ways lists them.
They are stored under `data.root/folder`, and made again if a file has changed.
"""

import hashlib
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from data import decoded
from data.arrays import Arrays
from data.listing import Example, enumerated, listed
from data.prepare import prepare_file
from recipe.errors import DataError
from recipe.experiment import DataConfig
from recipe.rng import keyed_generator

ARITHMETIC = 1  # version of `data/prepare.py`'s; another one decodes again


class Listing(NamedTuple):
    """Every file of a dataset, each part in order of class, then of path.

    Args:
      unused: as `data.listing.Parts` has it.
    """

    classes: list[str]
    train: list[Example]
    test: list[Example]
    unused: tuple[str, ...]


def list_images(data: DataConfig) -> Listing:
    """What `data.files` holds, without opening an image.

    Raises:
      DataError: naming the folder, the file or the line that is wrong.
    """
    assert data.files is not None  # checked by DataConfig for data=folder
    parts = listed(Path(data.files), data.class_names)
    found = {label for _, label in parts.train}
    classes = data.class_names or sorted(found)
    _check_classes(data, classes, found)
    train, test = parts.train, parts.test
    if test is None:
        train, test = split(train, classes, data.test_fraction, data.split_seed)
    number = {label: n for n, label in enumerate(classes)}
    return Listing(
        list(classes),
        *(sorted(p, key=lambda e: (number[e.label], e.path)) for p in (train, test)),
        unused=parts.unused,
    )


def class_names(data: DataConfig) -> list[str] | None:
    """The names of the classes in order of their numbers; None if they have none.

    Raises:
      DataError: as `list_images` does.
    """
    return list_images(data).classes if data.name == "folder" else data.class_names


def acquire(data: DataConfig) -> Path:
    """Decode the images, unless this was done and no file has changed since.

    Returns:
      The folder of the arrays.

    Raises:
      DataError: naming the file that cannot be read, or if `data.root` is not writable;
        nothing is written then.
    """
    listing, name = list_images(data), stored_as(data)
    folder, current = decoded.decoded_folder(name, data.root), state_of(listing)
    try:
        if verify(data)["files_state"] == current:
            return folder
    except (DataError, KeyError):
        pass  # decoded never, in part, or by another version
    arrays = decode(data, listing)
    source = f"{data.files}, by Pillow {version('pillow')}"
    try:
        with decoded.room(folder):
            decoded.write(name, data.root, arrays, source, files_state=current)
    except OSError as error:
        raise DataError(
            f"cannot write datasets under {data.root}: {error.strerror or error}; "
            "choose another folder with data.root=... or $DUET_DATA"
        ) from error
    print(described(data, listing, arrays), file=sys.stderr, flush=True)
    return folder


def load(data: DataConfig) -> tuple[Arrays, str]:
    """The decoded arrays, memory-mapped, and their fingerprint.

    Raises:
      DataError: if they are missing or not the bytes that were written.
    """
    manifest = verify(data)
    arrays = decoded.arrays_of(stored_as(data), data.root)
    return arrays, manifest["fingerprint"]


def verify(data: DataConfig) -> dict:
    """The manifest, after verifying every array's checksum."""
    folder = decoded.decoded_folder(stored_as(data), data.root)
    again = f"delete {folder}: the next training decodes {data.files} again"
    return decoded.verify(stored_as(data), data.root, again)


def stored_as(data: DataConfig) -> str:
    """The name under `data.root` of these files, prepared, divided and numbered so."""
    keys = (
        *(ARITHMETIC, data.files, data.image_shape, data.resize),
        *(data.test_fraction, data.split_seed, data.class_names),
    )
    return f"folder/{hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]}"


def state_of(listing: Listing) -> str:
    """SHA-256 of what changes if a file does: names, classes, sizes and times.

    Raises:
      DataError: naming a file that has vanished.
    """
    digest = hashlib.sha256(json.dumps(listing.classes).encode())
    for part in listing.train, listing.test:
        for path, label in part:
            try:
                stat = path.stat()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            times = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
            digest.update(json.dumps([str(path), label, *times]).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def decode(data: DataConfig, listing: Listing) -> Arrays:
    """Every file's pixels and label, by as many threads as there are cores.

    Raises:
      DataError: naming the first file that cannot be read.
    """
    number = {label: n for n, label in enumerate(listing.classes)}

    def pixels(example: Example) -> UInt8[np.ndarray, "H W C"]:
        return prepare_file(example.path, data.image_shape, data.resize)

    arrays = []
    for part in listing.train, listing.test:
        images = np.empty((len(part), *data.image_shape), np.uint8)
        with ThreadPoolExecutor() as pool:
            for place, image in enumerate(pool.map(pixels, part)):
                images[place] = image
        arrays += [images, np.array([number[e.label] for e in part], np.int32)]
    return Arrays(*arrays)


def described(data: DataConfig, listing: Listing, arrays: Arrays) -> str:
    """One line on what was decoded, with the mean and deviation to train with."""
    counts = [
        np.bincount(channel.reshape(-1), minlength=256)
        for channel in np.moveaxis(arrays.train_images, -1, 0)
    ]
    levels = np.arange(256) / 255
    means = [np.average(levels, weights=count) for count in counts]
    squares = [np.average(levels**2, weights=count) for count in counts]
    deviations = [math.sqrt(s - m * m) for s, m in zip(squares, means, strict=True)]
    mean, std = (
        f"[{','.join(f'{value:.4f}' for value in values)}]"
        for values in (means, deviations)
    )
    unused = f"; not used: {', '.join(listing.unused)}" * bool(listing.unused)
    return (
        f"{data.files}: decoded {len(listing.train)} training and {len(listing.test)} "
        f"test images of {len(listing.classes)} classes; the pixels of the training "
        f"images have data.mean={mean} data.std={std}{unused}"
    )


def split(
    examples: list[Example], classes: list[str], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Training and test examples: of each class this fraction, at least one of each.

    A class is divided the same way whatever the others are.

    Raises:
      DataError: naming a class with a single image.
    """
    of_class: dict[str, list[Example]] = {label: [] for label in classes}
    for example in sorted(examples):
        of_class[example.label].append(example)
    parts: tuple[list[Example], list[Example]] = [], []
    for label, members in of_class.items():
        if len(members) < 2:
            raise DataError(
                f"class {label} has one image, {members[0].path}, and a split needs "
                "at least two; add images, or remove the class"
            )
        wanted = math.floor(fraction * len(members) + 0.5)
        count = min(max(wanted, 1), len(members) - 1)
        order = keyed_generator(seed, "split", label).permutation(len(members))
        for place, chosen in enumerate(order):
            parts[place < count].append(members[chosen])
    return parts


def _check_classes(data: DataConfig, classes: list[str], found: set[str]) -> None:
    for label in classes:
        if label not in found:
            raise DataError(
                f"data.files={data.files} holds no training images of class {label}, "
                "which data.class_names lists"
            )
    if len(classes) < 2:
        raise DataError(
            f"data.files={data.files} holds one class, {classes[0]}; at least two are "
            "needed"
        )
    if len(classes) != data.classes:
        raise DataError(
            f"data.files={data.files} holds {len(classes)} classes, "
            f"{enumerated(classes)}, and data.classes={data.classes}; give "
            f"data.classes={len(classes)}"
        )
