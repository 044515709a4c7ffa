"""Atomic, durable writes of a record's files, and how they are read back.

A file appears whole or not at all, and survives a power loss. Errors of the system
become one `RecordError` that says what to do.
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from recipe.errors import RecordError
from record.schema import Field, check_fields, restored_fields, with_earlier

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of file systems without flock, where two runs in one run.dir go unnoticed.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def recording(path: Path, verb: str = "write") -> Iterator[None]:
    """Turn an OSError into one `RecordError` that names the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        other = error.filename and str(error.filename) != str(path)
        named = f" ({error.filename})" if other else ""
        hint = "choose another run.dir, or change its permissions"
        if error.errno in FULL:
            hint = "free some space or choose another run.dir; what is written is kept"
        if error.errno == errno.EIO:
            hint = "the disk fails: choose another run.dir; what is written is kept"
        if verb == "read":
            hint = "is it in a run folder?"
        raise RecordError(f"cannot {verb} {path}: {reason}{named}; {hint}") from error


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def write_file(path: Path, content: bytes) -> None:
    """Write a new file, flushed to the disk when this returns.

    Raises:
      OSError: part of the file may be there then.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically; it replaces one of the same name.

    Raises:
      OSError: nothing has changed then.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        write_file(temporary, content)
        temporary.replace(path)
        folder_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def folder_to_disk(folder: Path) -> None:
    """Flush a folder's entries to the disk, as fsync flushes a file's content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked(path: Path) -> TextIO:
    """The open file, locked by this process until it is closed.

    Raises:
      RecordError: naming the process that holds the lock.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise RecordError(
            f"{path.parent} is being written by {holder}; wait for it, end it, or "
            "choose another run.dir"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            raise
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
    file.flush()
    return file


def read_text(file: Path) -> str:
    """A file of UTF-8.

    Raises:
      RecordError: if it cannot be read, or is not UTF-8.
    """
    try:
        with recording(file, "read"):
            return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{file} is not UTF-8: {error}") from error


def parse_json(text: str | bytes, where: Path | str) -> Any:
    """Parse JSON that may be malformed in any way.

    Raises:
      RecordError: naming the place.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where} is not JSON: {error}") from error


def checked_object(value: Any, table: dict[str, Field], where: str) -> dict[str, Any]:
    """A JSON object, checked against the schema, floats as floats again.

    Raises:
      RecordError: naming the place and the field.
    """
    if not isinstance(value, dict):
        raise RecordError(f"{where} holds no object")
    value = with_earlier(value, table)
    check_fields(value, table, where)
    return restored_fields(value, table)
