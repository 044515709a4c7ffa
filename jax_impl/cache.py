"""Compiled steps are cached on disk between processes, by JAX's own cache."""

import glob
import hashlib
import os
import re
import sys
import tempfile
import uuid
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib.version
from jax.experimental.compilation_cache import compilation_cache

from jax_impl.parallel import World
from recipe.config import Config

MOST_BYTES = 2**31  # of a folder; beyond that the least recently used are removed
EVENTS = "/jax/compilation_cache/"
ENTRY = r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)"
# Properties of a CPU that compiled programs depend on, as Linux names them on x86 and
# ARM.
CPU = r"vendor_id|cpu family|model|model name|stepping|flags|Features|CPU [a-z]+"

_EVENTS: Counter[str] = Counter()  # of this process, by name


class Lookups(NamedTuple):
    """Cache hits and misses of this process, in programs."""

    found: int
    compiled: int


def open_cache(config: Config, world: World) -> None:
    """Enable the cache from here on, if the config asks for it.

    All processes use the folder or none does: GPUs that share the search for the
    fastest kernels would wait for one that found the program cached and does not
    search. If the folder is not writable, a line says so and there is no cache.
    """
    jax.monitoring.register_event_listener(_count)
    usable = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    asked = config.compile_cache and usable
    folder = _shared_folder(world) if asked else None
    jax.config.update("jax_enable_compilation_cache", folder is not None)
    jax.config.update("jax_compilation_cache_dir", folder and str(folder))
    compilation_cache.reset_cache()  # it may have read its settings already
    if folder is None:
        return
    # By default it keeps programs that took over a second; small models take less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # With a size limit JAX locks the folder; else partial writes may be read.
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    _shorten_cache_warnings(folder, world.rank)


def lookups() -> Lookups:
    """The counts of this process so far."""
    found = _EVENTS["cache_hits"]
    return Lookups(found, _EVENTS["compile_requests_use_cache"] - found)


def all_found(before: Lookups) -> bool:
    """Whether all that was compiled since then came from the cache."""
    now = lookups()
    return now.found > before.found and now.compiled == before.compiled


def _count(event: str, **_: Any) -> None:
    if event.startswith(EVENTS):
        _EVENTS[event.removeprefix(EVENTS)] += 1


def _shared_folder(world: World) -> Path | None:
    """This machine's folder, or None if the processes do not share it."""
    mark = f".seen-{uuid.uuid4().hex}"

    def make() -> str:
        try:
            folder = _folder()
            folder.mkdir(0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".") as file:
                file.write(b"0")
            _complete(folder)
            if world.processes > 1:
                (folder / mark).touch()
            return mark
        except (OSError, RuntimeError) as error:  # the latter without a home directory
            print(
                f"warning: no compilation cache, each run compiles: {error}; "
                "name a folder in JAX_COMPILATION_CACHE_DIR, or compile_cache=false",
                file=sys.stderr,
            )
            return ""

    mark = world.ranks.from_rank_zero(make)
    if world.processes == 1:
        return _folder() if mark else None
    sees = bool(mark) and (_folder() / mark).exists()
    all_see = not world.ranks.any(not sees)
    if mark and world.rank == 0:
        (_folder() / mark).unlink(missing_ok=True)
    return _folder() if all_see else None


def _complete(folder: Path) -> None:
    """Give each entry its time of use, without which JAX could add no other.

    A process that is killed between writing the two leaves an entry alone.
    """
    for entry in folder.glob("*-cache"):
        used = entry.with_name(f"{entry.name.removesuffix('cache')}atime")
        if not used.exists():
            used.write_bytes(bytes(8))


def _folder() -> Path:
    """A folder for each kind of CPU and version of jaxlib, as clusters share homes.

    XLA compiles for the instructions of the CPU that it runs on, and JAX's cache keys
    include neither its model nor its features.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(given) if given else Path(caches) / "duet" / "jax"
    return root.absolute() / f"{jaxlib.version.__version__}-{_cpu()}"


def _cpu() -> str:
    """A digest of the first processor's properties."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        found = re.findall(rf"^(?:{CPU})\s*:.*$", first, re.MULTILINE)
    except OSError:  # not on Linux
        found = []
    text = "\n".join([*os.uname()[::4], *found])  # the system and its architecture
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _shorten_cache_warnings(folder: Path, rank: int) -> None:
    """JAX's warnings about entries in a line each; a broken entry is also removed.

    JAX recompiles what it cannot read, but never overwrites an entry.
    """
    show = warnings.showwarning
    unwritten: list[str] = []

    def show_short(message: Warning | str, *place: Any, **more: Any) -> None:
        matched = re.match(ENTRY, str(message))
        if matched is None:
            show(message, *place, **more)
            return
        doing, program, reason = matched.groups()
        if doing == "reading":
            for entry in folder.glob(f"{glob.escape(program)}-*-cache"):
                entry.unlink(missing_ok=True)
            problem = f"removed a broken entry and compiled {program} again"
        else:
            unwritten.append(program)
            problem = "compiled programs cannot be cached"
        if rank == 0 and len(unwritten) < 2:  # a full disk is reported once
            print(f"warning: {folder}: {problem} ({reason})", file=sys.stderr)

    warnings.showwarning = show_short
