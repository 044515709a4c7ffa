"""Train as users do, and tell when what was done: one process of `make claims`.

    python benchmarks/claims/timed.py torch|jax [--stop] [OVERRIDES]

JSON: `imported_at` and `first_window_at`, Unix seconds, when the framework was imported
and when the first window's steps were done; `first_steps`, their number;
`peak_process_bytes`. With --stop the run is asked to stop after that window, as by a
scheduler, so that it can be resumed.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != HERE)]


def main(framework: str, *typed: str) -> None:
    if framework == "torch":
        import torch  # noqa: F401
    else:
        import flax.nnx  # noqa: F401
        import jax  # noqa: F401
        import optax  # noqa: F401
    told = {"imported_at": time.time()}

    from record.environment import peak_resident_bytes
    from record.recorder import Recorder

    stops = "--stop" in typed
    rightly = Recorder.window

    def timed(self, window, times, **named):
        if "first_window_at" not in told:
            told["first_window_at"] = time.time()
            told["first_steps"] = len(window.steps)
            if stops:
                os.kill(os.getpid(), signal.SIGTERM)
        rightly(self, window, times, **named)

    Recorder.window = timed
    sys.argv = ["launch", *(t for t in typed if t != "--stop")]
    if framework == "torch":
        from launch.pytorch import STOPPING, twin
    else:
        from launch.jax import STOPPING, twin
    from launch.train import main as train

    STOPPING.install()
    try:
        train(framework, twin, STOPPING)
    except SystemExit as ended:
        if not stops or ended.code != 75:  # it was asked to stop
            raise
    told["peak_process_bytes"] = peak_resident_bytes()
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
