"""Two ranks: one waits long for its busy device, and still must not count as lost.

torchrun --nproc-per-node=2 -m benchmarks.gpu.waiting torch|jax cpu|gpu SECONDS FILE

Rank 1 waits in one call, in which no Python of its main thread runs; only its
heartbeat's thread does. It then writes FILE, which rank 0 waits for.
"""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

from recipe.execution import ParallelConfig
from record.disk import to_json, write_whole
from runtime.heartbeat import Heartbeat
from runtime.processes import from_environment

TIMEOUT_SECONDS = 3.0  # without a heartbeat, after which a rank counts as frozen


def main(framework: str, platform: str, seconds: str, name: str) -> None:
    file = Path(name)
    processes = from_environment(os.environ)
    config = ParallelConfig(
        name="dp", timeout_seconds=TIMEOUT_SECONDS, start_timeout_seconds=300
    )
    hold = None
    if processes.rank == 1:  # imports first, which may hold Python's lock
        hold = import_module(f"benchmarks.gpu.{framework}_probe").hold
        hold(platform, "0")
    with Heartbeat(processes, config) as heartbeat:
        heartbeat.connect()
        if hold is not None:
            write_whole(file, to_json(hold(platform, seconds)))
        while not file.exists():
            time.sleep(0.1)
    if processes.rank == 0:
        print(json.dumps(json.loads(file.read_text())), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
