"""Time every call that records a window in a training: the cost of recording.

    python benchmarks/recording.py torch [OVERRIDES]

W&B, if asked for, is offline; its thread runs during the next window's steps, and is
not part of these calls. JSON: `first_step_at`, Unix seconds, when the first window's
steps were done; `recorded` and `stepped`, seconds of each window.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main(framework: str) -> None:
    from record.recorder import Recorder

    spent, steps, ended = [], [], []
    rightly = Recorder.window

    def timed(self, window, times, **named):
        ended.append(time.time())
        begin = time.perf_counter()
        rightly(self, window, times, **named)
        spent.append(time.perf_counter() - begin)
        steps.append(float(max(times.seconds)))

    Recorder.window = timed
    os.environ["WANDB_MODE"] = "offline"
    sys.argv = ["launch", *sys.argv[2:]]
    if framework == "torch":
        from launch.pytorch import STOPPING, twin
    else:
        from launch.jax import STOPPING, twin
    from launch.train import main as train

    train(framework, twin, STOPPING)
    spent_seconds = {"first_step_at": ended[0], "recorded": spent, "stepped": steps}
    print(json.dumps(spent_seconds))


if __name__ == "__main__":
    main(sys.argv[1])
