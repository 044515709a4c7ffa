"""Compiled models kept on disk from one process to the next, by torch's own caches.

They lie where TORCHINDUCTOR_CACHE_DIR says, else in the system's temporary folder, and
are on by default. An eager run compiles nothing.
"""

import sys
from typing import NamedTuple

from recipe.config import Config
from torch_impl.parallel import World


class Lookups(NamedTuple):
    """How many graphs this process has found in the caches, and how many not."""

    found: int
    compiled: int


def open_cache(config: Config, world: World) -> None:
    """Let torch.compile use its caches, or not; they look after themselves."""
    if config.compile and not config.compile_cache:
        from torch.compiler import config as settings

        settings.force_disable_caches = True


def lookups() -> Lookups:
    """Those of this process so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # where nothing compiles, unwanted
    counts = dynamo.counters["inductor"] if dynamo else {}
    found, missed, passed = (
        counts.get(f"fxgraph_cache_{how}", 0) for how in ("hit", "miss", "bypass")
    )
    return Lookups(found, missed + passed)


def all_found(before: Lookups) -> bool:
    """Whether all that was wanted since then came out of the caches."""
    now = lookups()
    return now.found > before.found and now.compiled == before.compiled
