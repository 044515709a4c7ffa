"""Acquired datasets on disk: written atomically, verified when read.

ROOT/NAME/decoded/ holds one .npy for each of the four arrays, and manifest.json:

    schema       version of this layout
    name         the dataset's
    source       where the arrays came from
    fingerprint  of the content, see `data.arrays`
    files        file name -> sha256 and bytes of the file, shape and dtype of the array
    files_state  data=folder: of the files that were decoded, see `data.folder`; or null
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from data import idx
from data.arrays import Arrays, fingerprint
from recipe.errors import DataError

SCHEMA = 1
MANIFEST = "manifest.json"
FILES = tuple(f"{field}.npy" for field in Arrays._fields)


def decoded_folder(name: str, root: str | Path) -> Path:
    return Path(root).expanduser() / name / "decoded"


def verify(name: str, root: str | Path, again: str | None = None) -> dict[str, Any]:
    """The manifest, after verifying every file's checksum.

    A copy of other data under a published name, made by an older version, is refused.

    Args:
      again: what to do about a copy that is missing or corrupt, for messages; by
        default the command that acquires a published dataset.

    Raises:
      DataError: naming the file that is missing or changed, and what to do.
    """
    folder = decoded_folder(name, root)
    command = f"python -m data.acquire {name} --root {Path(root).expanduser()}"
    if not os.path.isdir(folder):  # nor if it is not readable
        raise DataError(f"{name} is not in {folder}; {again or f'run `{command}`'}")
    advice = again or f"run `{command} --again` or delete {folder}"
    manifest = _manifest(folder, name, advice)
    for file, entry in manifest["files"].items():
        path = folder / file
        try:
            changed = sha256_of(path) != entry["sha256"]
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror}; {advice}"
            ) from error
        if changed:
            raise DataError(
                f"{path} is corrupt: its SHA-256 is not the one in the manifest; "
                f"{advice}"
            )
    if name in idx.PUBLISHED:
        places = [str(folder / file) for file in FILES]
        idx.check_published(name, arrays_of(name, root), places)
    return manifest


def arrays_of(name: str, root: str | Path) -> Arrays:
    """The arrays, memory-mapped; `verify` says whether they are intact."""
    folder = decoded_folder(name, root)
    return Arrays(*(np.load(folder / file, mmap_mode="r") for file in FILES))


def _manifest(folder: Path, name: str, advice: str) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        schema, files = manifest["schema"], manifest["files"]
        whole = manifest.keys() >= {"fingerprint", "source"} and all(
            "sha256" in files[file] for file in FILES
        )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {advice}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a complete manifest; {advice}") from error
    if schema != SCHEMA:
        raise DataError(f"{path} has schema {schema}, not {SCHEMA}; {advice}")
    if not whole or manifest.get("name") != name:
        raise DataError(f"{path} does not describe {name} as decoded here; {advice}")
    return manifest


def load(name: str, root: str | Path) -> tuple[Arrays, str]:
    """The arrays, memory-mapped, and their fingerprint.

    The fingerprint is the manifest's: it was written with these files, whose checksums
    have just been verified.

    Raises:
      DataError: if a file is missing or not the bytes that were written.
    """
    manifest = verify(name, root)
    return arrays_of(name, root), manifest["fingerprint"]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def room(folder: Path) -> Iterator[None]:
    """The folder's parents, made; those that are empty at the end are removed."""
    made = [p for p in (folder.parent, *folder.parent.parents) if not p.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def write(
    name: str,
    root: str | Path,
    arrays: Arrays,
    source: str,
    files_state: str | None = None,
) -> None:
    """Write a folder atomically: into a temporary sibling, then a rename.

    Raises:
      OSError: on a disk error; nothing is left behind then.
    """
    folder = decoded_folder(name, root)
    fresh = folder.with_name(f".decoded-{uuid.uuid4().hex}")
    fresh.mkdir()  # unlike tempfile's it obeys the umask, so a group can share it
    try:
        manifest = {
            "schema": SCHEMA,
            "name": name,
            "source": source,
            "fingerprint": fingerprint(arrays),
            "files_state": files_state,
            "files": {
                file: _write_array(fresh / file, array)
                for file, array in zip(FILES, arrays, strict=True)
            },
        }
        with (fresh / MANIFEST).open("wb") as stream:
            stream.write(json.dumps(manifest, indent=2).encode() + b"\n")
            _to_disk(stream)
        _folder_to_disk(fresh)
        _put_in_place(fresh, name, root)
        _folder_to_disk(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_array(path: Path, array: np.ndarray) -> dict[str, Any]:
    with path.open("wb") as stream:
        np.save(stream, array)
        _to_disk(stream)
    return {
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
    }


def _put_in_place(fresh: Path, name: str, root: str | Path) -> None:
    """Rename, unless another acquirer was first; a corrupt folder is moved aside.

    An intact folder is kept: it has the same arrays, and another run may be about to
    open its files.
    """
    folder = decoded_folder(name, root)
    while True:
        try:
            fresh.rename(folder)  # refused by the system over a folder that has files
            return
        except OSError:
            if not folder.exists():
                raise
        with contextlib.suppress(DataError):
            fresh_manifest = json.loads((fresh / MANIFEST).read_bytes())
            if _same(verify(name, root), fresh_manifest):
                return
        old = folder.with_name(f".old-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):  # another acquirer moved it
            folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(k) == other.get(k) for k in ("fingerprint", "files_state"))


def _to_disk(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _folder_to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
