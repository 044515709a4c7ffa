"""Test whether ablations find a known delay of the gradient exchange.

    python benchmarks/exposed_communication.py [MILLISECONDS]

Trains a small model on two processes in each framework, several times with the exchange
delayed in every step (by 500 ms), and without the exchange. Compares the difference of
their steps with the delay; exits with 1 if they differ by more than 10 %. The exchange
itself takes some milliseconds, more on a busy machine, and is included: so the delay is
long.
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
RECIPE = ("experiment=digits_mlp", "train.steps=16", "train.log_every_steps=4")


def delayed_torch(seconds: float) -> None:
    """Run `launch/pytorch.py` with a delay before DDP's all-reduce."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    import torch_impl.parallel as parallel
    from launch.pytorch import STOPPING, twin
    from launch.train import main

    class Delayed(parallel.DistributedDataParallel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

            def late(group, bucket):
                if bucket.is_last():  # once per step, whatever the number of buckets
                    time.sleep(seconds)
                return allreduce_hook(group, bucket)

            self.register_comm_hook(dist.group.WORLD, late)

    parallel.DistributedDataParallel = Delayed
    main("torch", twin, STOPPING)


def delayed_jax(seconds: float) -> None:
    """Run `launch/jax.py` with a delay before the sum of gradients over devices."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import io_callback

    import jax_impl.step as step
    from launch.jax import STOPPING, twin
    from launch.train import main

    def wait(_) -> np.ndarray:
        time.sleep(seconds)
        return np.zeros((), np.float32)

    def delayed(local, params, whole, rows, world):
        def late(*given):
            loss, gradients, statistics = local(*given)
            # It starts after all gradients are computed, and ends before any is
            # exchanged.
            made = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(gradients))
            zero = io_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), made)
            return loss, jax.tree.map(lambda leaf: leaf + zero, gradients), statistics

        return rightly(late if world.grad_sync else local, params, whole, rows, world)

    rightly, step.share_gradients = step.share_gradients, delayed
    main("jax", twin, STOPPING)


DELAYED = {"torch": delayed_torch, "jax": delayed_jax}


def step_seconds(framework: str, folder: Path, seconds: float, *more: str) -> float:
    """The median step of the timed windows of one training."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        + ["--nproc-per-node=2", __file__, *RECIPE, "platform=cpu"]
        + [f"run.dir={folder}", *more],
        cwd=ROOT,
        env=os.environ | {DELAY: f"{framework} {seconds}"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return statistics.median(
        row["step_seconds"]
        for row in rows
        if row["kind"] == "window" and not row["warmup"]
    )


def found_delay(framework: str, delay: float) -> float:
    """Seconds by which the full step is longer than the one without the exchange."""
    full, alone = [], []
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(REPEATS):
            run = Path(name, f"full-{repeat}")
            full.append(step_seconds(framework, run, delay))
            run, override = Path(name, f"alone-{repeat}"), "parallel.grad_sync=false"
            alone.append(step_seconds(framework, run, delay, override))
    found = statistics.median(full) - statistics.median(alone)
    print(
        f"{framework}: a step takes {1000 * statistics.median(full):.1f} ms, without "
        f"the exchange {1000 * statistics.median(alone):.1f} ms: {1000 * found:.1f} ms "
        f"are exposed, of which {1000 * delay:.0f} ms were added"
    )
    return found


def main() -> int:
    delay = (float(sys.argv[1]) if len(sys.argv) > 1 else 500.0) / 1000
    found = [found_delay(framework, delay) for framework in DELAYED]
    return int(max(abs(each / delay - 1) for each in found) > TOLERANCE)


if __name__ == "__main__":
    if DELAY in os.environ:
        framework, seconds = os.environ[DELAY].split()
        DELAYED[framework](float(seconds))
    else:
        sys.exit(main())
