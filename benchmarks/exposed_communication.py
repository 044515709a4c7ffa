"""Is a known delay of the gradient exchange found by the arms that look for it?

    python benchmarks/exposed_communication.py [MILLISECONDS]

Trains a small model on two PyTorch processes, several times with DDP's exchange delayed
by as much in every step (500 ms), and without it. What the full step takes longer is
compared with the delay; leaves with 1 if they are more than 10 % apart. The exchange
itself takes some milliseconds, more on a machine that does something else, and is found
too: so the delay is a long one.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DELAY, TOLERANCE, REPEATS = "DELAY_SECONDS", 0.1, 3
RECIPE = ("experiment=digits_mlp", "train.steps=16", "train.window_steps=4")


def delayed_training(seconds: float) -> None:
    """Be `launch/pytorch.py`, with DDP's all-reduce waiting before it begins."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    import torch_impl.parallel as parallel
    from launch.pytorch import twin
    from launch.train import main

    class Delayed(parallel.DistributedDataParallel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

            def late(group, bucket):
                if bucket.is_last():  # once a step, however many buckets there are
                    time.sleep(seconds)
                return allreduce_hook(group, bucket)

            self.register_comm_hook(dist.group.WORLD, late)

    parallel.DistributedDataParallel = Delayed
    main(twin)


def step_seconds(folder: Path, seconds: float, *overrides: str) -> float:
    """The median step of the timed windows of one training."""
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        + ["--nproc-per-node=2", __file__, *RECIPE, "platform=cpu"]
        + [f"run.dir={folder}", *overrides],
        cwd=ROOT,
        env=os.environ | {DELAY: str(seconds)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return statistics.median(
        row["step_seconds"]
        for row in rows
        if row["kind"] == "window" and not row["warmup"]
    )


def main() -> int:
    delay = (float(sys.argv[1]) if len(sys.argv) > 1 else 500.0) / 1000
    full, alone = [], []
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(REPEATS):
            folder = Path(name)
            full.append(step_seconds(folder / f"full-{repeat}", delay))
            without = folder / f"alone-{repeat}", delay, "parallel.exchange=false"
            alone.append(step_seconds(*without))
    found = statistics.median(full) - statistics.median(alone)
    print(
        f"a step takes {1000 * statistics.median(full):.1f} ms, without the exchange "
        f"{1000 * statistics.median(alone):.1f} ms: {1000 * found:.1f} ms are exposed, "
        f"of which {1000 * delay:.0f} ms were put there"
    )
    return int(abs(found / delay - 1) > TOLERANCE)


if __name__ == "__main__":
    if DELAY in os.environ:
        delayed_training(float(os.environ[DELAY]))
    else:
        sys.exit(main())
