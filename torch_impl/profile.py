"""What a rank and its device did in some steps, as a trace that Perfetto opens."""

from collections.abc import Callable
from pathlib import Path

import torch.profiler

from torch_impl.parallel import World


def start_profile(folder: Path, world: World) -> Callable[[], None]:
    """Trace from now on, until what is returned is called, which writes the file."""
    profiler = torch.profiler.profile(
        activities=torch.profiler.supported_activities(), acc_events=True
    )
    profiler.start()

    def write() -> None:
        profiler.stop()
        file = folder / "profile" / f"rank{world.rank}.json.gz"
        file.parent.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(file))

    return write
