"""What a rank and its devices did in some steps, as a trace that Perfetto opens."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from jax_impl.parallel import World


def start_profile(folder: Path, world: World) -> Callable[[], None]:
    """Trace from now on, until what is returned is called, which writes the file."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # else Python's own calls are nearly all of it
    scratch = tempfile.TemporaryDirectory()  # beside Perfetto's file lie XLA's own
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
