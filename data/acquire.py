"""Acquire a published dataset as plain arrays on disk, in a separate process.

    python -m data.acquire cifar10 --source tfds --root ~/.cache/duet

Needs no GPU, so a login node will do. Archives are used where they are, or downloaded.
Every source gives the same arrays in the same order; intact ones that exist already are
kept. Torchvision is imported here, TFDS in `data.tfds`; since this only ever runs as a
process, neither torch nor TensorFlow enters a JAX run.
"""

import argparse
import contextlib
import http.client
import io
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from data import decoded, idx, tfds
from data.arrays import Arrays, check
from data.cifar import read_cifar
from recipe.errors import DataError, DuetError
from recipe.experiment import SOURCES

# Debian's package dataset-fashion-mnist installs the published files here, so that a
# machine without internet can train on real images.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

DOWNLOAD_ERRORS = (ImportError, OSError, RuntimeError, http.client.HTTPException)
DOWNLOAD_TIMEOUT = 30.0  # seconds; else a firewall that drops packets hangs for minutes


class Published(NamedTuple):
    """What is known of a dataset before it is acquired."""

    image_shape: tuple[int, int, int]
    classes: int
    torchvision: str  # its class in torchvision, which also names MNIST's folder
    archives: tuple[tuple[str, ...], ...]  # sets of files, each the whole dataset


PUBLISHED = {
    "cifar10": Published(
        (32, 32, 3),
        10,
        "CIFAR10",
        (("cifar-10-python.tar.gz",), ("cifar-10-binary.tar.gz",)),
    ),
    "cifar100": Published(
        (32, 32, 3),
        100,
        "CIFAR100",
        (("cifar-100-python.tar.gz",), ("cifar-100-binary.tar.gz",)),
    ),
    "fashion_mnist": Published((28, 28, 1), 10, "FashionMNIST", (idx.FILES,)),
    "mnist": Published((28, 28, 1), 10, "MNIST", (idx.FILES,)),
}


class Acquired(NamedTuple):
    """Arrays, their names in messages, and the source for the manifest."""

    arrays: Arrays
    names: Sequence[str]
    source: str


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or that of a DuetError, which is one line on stderr."""
    parser = argparse.ArgumentParser("python -m data.acquire", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", choices=sorted(PUBLISHED))
    parser.add_argument("--source", choices=SOURCES, default="torchvision")
    parser.add_argument(
        "--root",
        default=os.environ.get("DUET_DATA") or "~/.cache/duet",
        help="where datasets are stored; default $DUET_DATA, else ~/.cache/duet",
    )
    parser.add_argument("--archives", help="another root to look in first, read-only")
    parser.add_argument(
        "--again", action="store_true", help="decode even if an intact copy exists"
    )
    options = parser.parse_args(arguments)
    root = Path(options.root).expanduser()
    archives = Path(options.archives).expanduser() if options.archives else None
    try:
        acquire(options.name, root, options.source, archives, options.again)
    except DuetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def acquire(
    name: str,
    root: Path,
    source: str = "torchvision",
    archives: Path | None = None,
    again: bool = False,
) -> None:
    """Make sure that intact decoded arrays are in ROOT/NAME/decoded.

    Args:
      archives: another root to look in first, read-only.

    Raises:
      DataError: if the files are missing and cannot be downloaded, are corrupt or of
        another dataset, if a package is missing, or if ROOT is not writable.
    """
    folder = decoded.decoded_folder(name, root)
    if os.path.isdir(folder) and not again:
        try:
            manifest = decoded.verify(name, root)
            print(f"{name} is in {folder}, intact, from {manifest['source']}")
            return
        except DataError as error:
            print(f"decoding {name} again, because {error}")
    roots = [archives, root] if archives else [root]
    places = [place for other in roots for place in _places(name, other)]
    try:
        with decoded.room(folder):
            # Downloads are private until decoded: two acquirers would otherwise write
            # the same files, and find each other's incomplete ones.
            private = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".get-")
            with private as place:
                acquired = ACQUIRE[source](name, root, places, Path(place))
            _check(name, acquired)
            decoded.write(name, root, acquired.arrays, acquired.source)
        print(f"{name} decoded from {acquired.source} to {folder}")
    except OSError as error:
        raise DataError(
            f"cannot write datasets under {root}: {error.strerror or error}; choose "
            "another folder with --root, data.root=... or $DUET_DATA; `python -m "
            f"data.acquire {name} --archives {root} --root FOLDER` fills it from here"
        ) from error


def from_torchvision(
    name: str, root: Path, places: Sequence[Path], private: Path
) -> Acquired:
    """The archives that are found, or that torchvision downloads.

    Raises:
      DataError: naming the corrupt file, or saying which file to put where.
    """
    if name == "fashion_mnist":
        places = [*places, DEBIAN_FASHION_MNIST]
    found = find(places, PUBLISHED[name].archives)
    if found is None:
        label = download(name, root, private)
        found = find(_places(name, private), PUBLISHED[name].archives)
        assert found is not None  # else torchvision raised an error
    else:
        label = str(found[0].parent if len(found) > 1 else found[0])
    if len(found) == 1:
        names = [f"{found[0]}: {field}" for field in Arrays._fields]
        return Acquired(read_cifar(found[0]), names, label)
    return Acquired(idx.read_mnist(found), [str(path) for path in found], label)


def from_tfds(name: str, root: Path, places: Sequence[Path], private: Path) -> Acquired:
    """A dataset prepared by TFDS, earlier or now from archives or a download.

    Raises:
      DataError: if TFDS or TensorFlow is missing, or naming the corrupt file.
    """
    label = f"TFDS {tfds.version()}"
    folder = tfds.prepared(name, places)
    if folder:
        label += f", prepared in {folder}"
    else:
        # TFDS reads one format of each dataset: gzipped IDX, or CIFAR's binary version.
        files = [f"{f.removesuffix('.gz')}.gz" for f in PUBLISHED[name].archives[-1]]
        found = find(places, [files])
        where = found[0].parent if found else None
        label += f", built from {where or 'a download'}"
        print(f"{name} is not prepared; {label}", flush=True)
        advice = f"put {', '.join(files)} into {root / name}"
        folder = tfds.build(name, where, private, "fetch it again" if where else advice)
    names = [f"{label}: {field}" for field in Arrays._fields]
    return Acquired(tfds.read(folder), names, label)


ACQUIRE: dict[str, Callable[[str, Path, Sequence[Path], Path], Acquired]] = {
    "tfds": from_tfds,
    "torchvision": from_torchvision,
}


def find(
    places: Sequence[Path], archives: Sequence[Sequence[str]]
) -> list[Path] | None:
    """The files of the first set that is complete in one of the places."""
    for place in places:
        for files in archives:
            paths = [path for file in files if (path := _existing(place, file))]
            if len(paths) == len(files):
                return paths
    return None


def download(name: str, root: Path, private: Path) -> str:
    """Let torchvision fetch the archives, and check their MD5.

    Returns:
      The source, for the manifest.

    Raises:
      DataError: saying which files to put where, if that fails.
    """
    print(f"{name} is not under {root}; torchvision downloads it", flush=True)
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        # Its output before a failure would bury the one line that helps.
        with contextlib.redirect_stdout(io.StringIO()):
            import torchvision
            from torchvision.datasets.utils import download_url

            dataset = getattr(torchvision.datasets, PUBLISHED[name].torchvision)
            if name.startswith("cifar"):  # whose class would then unpickle it
                download_url(dataset.url, private, dataset.filename, dataset.tgz_md5)
            else:
                dataset(private, download=True)
    except DOWNLOAD_ERRORS as error:
        sets = [", ".join(files) for files in PUBLISHED[name].archives]
        package = ", or install Debian's package dataset-fashion-mnist"
        reason = " ".join(str(error).split())
        raise DataError(
            f"{name} is not on this machine and could not be downloaded; put "
            f"{' or '.join(sets)} into {root / name}"
            f"{package if name == 'fashion_mnist' else ''} (torchvision: {reason}); "
            f"or use data=synthetic, or run python -m data.acquire {name} on a machine "
            "with network"
        ) from error
    return f"torchvision {torchvision.__version__}"


def _places(name: str, root: Path) -> list[Path]:
    """Where archives are looked for, in order of preference."""
    return [root / name, root / PUBLISHED[name].torchvision / "raw", root]


def _existing(folder: Path, name: str) -> Path | None:
    for path in folder / name, folder / f"{name}.gz":
        if os.path.isfile(path):  # also False where it is not readable
            return path
    return None


def _check(name: str, acquired: Acquired) -> None:
    published = PUBLISHED[name]
    check(acquired.arrays, published.image_shape, published.classes, acquired.names)
    if name in idx.PUBLISHED:
        idx.check_published(name, acquired.arrays, acquired.names)


if __name__ == "__main__":
    sys.exit(main())
