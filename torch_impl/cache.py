"""Compiled models are cached on disk between processes, by torch's own caches.

They are in TORCHINDUCTOR_CACHE_DIR, else in the system's temporary folder, and on by
default. An eager run compiles nothing.
"""

import sys
from typing import NamedTuple

from recipe.config import Config
from torch_impl.parallel import World


class Lookups(NamedTuple):
    """Cache hits and misses of this process, in graphs."""

    found: int
    compiled: int


def open_cache(config: Config, world: World) -> None:
    """Enable or disable the caches of torch.compile, which manages them itself."""
    if config.compile and not config.compile_cache:
        from torch.compiler import config as settings

        settings.force_disable_caches = True


def lookups() -> Lookups:
    """The counts of this process so far."""
    dynamo = sys.modules.get(
        "torch._dynamo.utils"
    )  # not imported unless something compiles
    counts = dynamo.counters["inductor"] if dynamo else {}
    found, missed, passed = (
        counts.get(f"fxgraph_cache_{how}", 0) for how in ("hit", "miss", "bypass")
    )
    return Lookups(found, missed + passed)


def all_found(before: Lookups) -> bool:
    """Whether all that was compiled since then came from the caches."""
    now = lookups()
    return now.found > before.found and now.compiled == before.compiled
