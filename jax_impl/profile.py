"""A profile of a rank and its devices, as a trace for Perfetto."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from jax_impl.parallel import World


def start_profile(folder: Path, world: World) -> Callable[[], None]:
    """Start a profile; the returned function ends it and writes the file."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # else it is mostly Python calls
    scratch = tempfile.TemporaryDirectory()  # XLA's own files are beside Perfetto's
    jax.profiler.start_trace(
        scratch.name, create_perfetto_trace=True, profiler_options=options
    )

    def write() -> None:
        jax.profiler.stop_trace()
        file = folder / "profile" / f"rank{world.rank}.json.gz"
        file.parent.mkdir(exist_ok=True)
        (found,) = Path(scratch.name).rglob("perfetto_trace.json.gz")
        shutil.move(found, file)
        scratch.cleanup()

    return write
