"""Bring MNIST or Fashion-MNIST to disk as plain arrays, in a process of its own.

    python -m data.acquire fashion_mnist --root ~/.cache/duet

Needs no GPU, so a login node will do. The four IDX files are used where they lie, or
downloaded by torchvision; that is the only place in `data` where torch is imported,
and since this only ever runs as a process, torch never enters a JAX run.
"""

import argparse
import contextlib
import http.client
import io
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import decoded
from data.arrays import Arrays, check, fingerprint
from data.idx import read_idx
from recipe.errors import DataError, DuetError

# Debian's package dataset-fashion-mnist installs the published files here, so that a
# machine without internet can train on real images.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

# In the order of `Arrays`.
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # class and folder
IMAGE_SHAPE, CLASSES = (28, 28, 1), 10
DOWNLOAD_ERRORS = (ImportError, OSError, RuntimeError, http.client.HTTPException)
DOWNLOAD_TIMEOUT = 30.0  # seconds; a firewall that drops packets else hangs for minutes

# Two datasets in files of the same names are easily mixed up, and unzipped ones carry
# no checksum: what is known of the published ones is held against what was read.
PUBLISHED = {
    "fashion_mnist": "0bc3732c3b28f55e32e95a2ac5cea79965beb439344d36c57dc1ea8d673cc27d",
}
PUBLISHED_EXAMPLES = (60_000, 10_000)


class Source(NamedTuple):
    """Where four IDX files lie, and what the manifest calls that place."""

    folder: Path
    label: str


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or a DuetError's own, told in one line on stderr."""
    parser = argparse.ArgumentParser("python -m data.acquire", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", choices=sorted(TORCHVISION))
    parser.add_argument(
        "--root",
        default=os.environ.get("DUET_DATA") or "~/.cache/duet",
        help="where datasets lie; default $DUET_DATA, else ~/.cache/duet",
    )
    parser.add_argument(
        "--again", action="store_true", help="decode even if an intact copy exists"
    )
    options = parser.parse_args(arguments)
    try:
        acquire(options.name, Path(options.root).expanduser(), options.again)
    except DuetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def acquire(name: str, root: Path, again: bool = False) -> None:
    """Leave intact decoded arrays in ROOT/NAME/decoded.

    Raises:
      DataError: if the files are nowhere and cannot be downloaded, are corrupt or not
        that dataset, or if ROOT cannot be written.
    """
    folder = decoded.decoded_folder(name, root)
    if os.path.isdir(folder) and not again:
        try:
            manifest = decoded.verify(name, root)
            print(f"{name} is in {folder}, intact, from {manifest['source']}")
            return
        except DataError as error:
            print(f"decoding {name} again, because {error}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        source = find(name, root)
        if source is not None:
            decode(name, source, root)
            return
        # Downloads are private until decoded: two acquirers would otherwise write the
        # same files, and each find the other's half.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".get-") as private:
            decode(name, download(name, root, Path(private)), root)
    except OSError as error:
        raise DataError(
            f"cannot write datasets under {root}: {error.strerror or error}; choose "
            "another folder with --root, data.root=... or $DUET_DATA"
        ) from error


def places(name: str, root: Path) -> list[Path]:
    """Where the four files are looked for, the most telling places first."""
    found = [root / name, root / TORCHVISION[name] / "raw", root]
    return found + [DEBIAN_FASHION_MNIST] * (name == "fashion_mnist")


def find(name: str, root: Path) -> Source | None:
    """The first place that has all four files."""
    for place in places(name, root):
        if all(idx_file(place, file) for file in IDX_FILES):
            return Source(place, str(place))
    return None


def idx_file(folder: Path, name: str) -> Path | None:
    for path in folder / name, folder / f"{name}.gz":
        if os.path.isfile(path):  # False too where it may not be looked at
            return path
    return None


def download(name: str, root: Path, private: Path) -> Source:
    """The four files from the internet, by torchvision, which checks their MD5.

    Raises:
      DataError: saying which files to put where, if that fails.
    """
    print(f"{name} is not under {root}; torchvision downloads it", flush=True)
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        # What it prints on the way to a failure would bury the one line that helps.
        with contextlib.redirect_stdout(io.StringIO()):
            import torchvision

            getattr(torchvision.datasets, TORCHVISION[name])(private, download=True)
    except DOWNLOAD_ERRORS as error:
        files = ", ".join(f"{file}[.gz]" for file in IDX_FILES)
        package = ", or install Debian's package dataset-fashion-mnist"
        reason = " ".join(str(error).split())
        raise DataError(
            f"{name} is not on this machine and could not be downloaded; put {files} "
            f"into {root / name}{package if name == 'fashion_mnist' else ''} "
            f"(torchvision: {reason})"
        ) from error
    return Source(
        private / TORCHVISION[name] / "raw", f"torchvision {torchvision.__version__}"
    )


def decode(name: str, source: Source, root: Path) -> None:
    """Read and check the four IDX files, and put their arrays in place.

    Raises:
      DataError: naming the file that is corrupt.
    """
    paths = [idx_file(source.folder, file) or source.folder for file in IDX_FILES]
    train_images, train_labels, test_images, test_labels = (
        read_idx(path, dimensions)
        for path, dimensions in zip(paths, (3, 1, 3, 1), strict=True)
    )
    arrays = Arrays(
        train_images[..., np.newaxis],
        train_labels.astype(np.int32),
        test_images[..., np.newaxis],
        test_labels.astype(np.int32),
    )
    check(arrays, IMAGE_SHAPE, CLASSES, [str(path) for path in paths])
    check_published(name, arrays, source.folder)
    decoded.write(name, root, arrays, source.label)
    print(f"{name} decoded from {source.label} to {decoded.decoded_folder(name, root)}")


def check_published(name: str, arrays: Arrays, folder: Path) -> None:
    """Refuse another dataset, or a damaged one, under a published one's name.

    Raises:
      DataError: naming the folder.
    """
    content = fingerprint(arrays)
    for other, known in PUBLISHED.items():
        if content == known and other != name:
            raise DataError(f"{folder} holds {other}, not {name}; move its files")
    sizes = len(arrays.train_labels), len(arrays.test_labels)
    if sizes == PUBLISHED_EXAMPLES and content != PUBLISHED.get(name, content):
        raise DataError(
            f"{folder} is not {name} as published: the SHA-256 of its examples is "
            f"{content}, not {PUBLISHED[name]}; fetch its files again"
        )


if __name__ == "__main__":
    sys.exit(main())
