"""A profile of a rank and its device, as a trace for Perfetto."""

from collections.abc import Callable
from pathlib import Path

import torch.profiler

from torch_impl.parallel import World


def start_profile(folder: Path, world: World) -> Callable[[], None]:
    """Start a profile; the returned function ends it and writes the file."""
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
