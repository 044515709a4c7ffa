"""What recording, tracking and progress cost a run, as a share of its steps' time.

    python benchmarks/recording.py torch [OVERRIDES]

Trains with W&B offline, and times every call by which the loop records a window. JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main(framework: str) -> None:
    from record.recorder import Recorder

    spent, steps = [], []
    window = Recorder.window

    def timed(self, *given, **named):
        begin = time.perf_counter()
        window(self, *given, **named)
        spent.append(time.perf_counter() - begin)
        steps.append(float(max(named["seconds"])))

    Recorder.window = timed
    os.environ["WANDB_MODE"] = "offline"
    sys.argv = ["launch", *sys.argv[2:], "tracking=wandb"]
    if framework == "torch":
        from launch.pytorch import STOPPING, twin
    else:
        from launch.jax import STOPPING, twin
    from launch.train import main as train

    train(framework, twin, STOPPING)
    print(json.dumps({"share": sum(spent[1:]) / sum(steps[1:])}))


if __name__ == "__main__":
    main(sys.argv[1])
