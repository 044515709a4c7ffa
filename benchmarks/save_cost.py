"""The cost of saving every 10 steps for a step of fashion_cnn, within one run.

    python benchmarks/save_cost.py torch|jax [BLOCKS]

Blocks of windows with and without saving alternate (20 of each), and each is compared
with the one before it, so that other load affects both. A window counts from its first
step until the next may begin; the first of each block, over which the last save may
still be written, does not. Leaves with 1 where saving costs 5 % or more.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
os.environ.setdefault("OMP_NUM_THREADS", "1")

from launch.train import main as train  # noqa: E402
from recipe.batch_plan import BatchPlan  # noqa: E402

STEPS, WINDOWS, ALLOWED = 10, 5, 0.05
SCRIPTS = {"torch": "pytorch", "jax": "jax"}
SECONDS: dict[
    int, list[float]
] = {}  # block -> seconds of its windows; every second one saves


def take_turns(windows: Any) -> Any:
    """Time each window; every second block of them saves."""

    def timed(*arguments: Any) -> Iterator[Any]:
        for number, window in enumerate(windows(*arguments)):
            block, place = divmod(number, WINDOWS)
            begin = time.perf_counter()
            yield replace(window, saves=block % 2 == 0)
            if place > 0 and block > 0:  # the first block warms up
                SECONDS.setdefault(block, []).append(time.perf_counter() - begin)

    return timed


def main(framework: str, blocks: int = 20) -> None:
    steps = (2 * blocks + 1) * WINDOWS * STEPS
    BatchPlan.windows = take_turns(BatchPlan.windows)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [
            *("experiment=fashion_cnn", "data=synthetic", "data.train_examples=12800"),
            *(f"train.steps={steps}", f"train.log_every_steps={STEPS}"),
            *("train.evaluate_every_epochs=0", f"checkpoint.every_steps={STEPS}"),
            f"run.dir={folder}/run",
        ]
        script = import_module(f"launch.{SCRIPTS[framework]}")
        train(framework, script.twin, script.STOPPING)
    medians = [statistics.median(SECONDS[block]) for block in sorted(SECONDS)]
    pairs = list(zip(medians[::2], medians[1::2], strict=True))
    low, cost, high = statistics.quantiles([b / a - 1 for a, b in pairs], n=4)
    print(
        f"{framework}: saving every {STEPS} steps adds {cost:+.1%} to a step of "
        f"{1e3 * statistics.median(medians[::2]) / STEPS:.2f} ms "
        f"(quartiles of {len(pairs)} pairs: {low:+.1%} to {high:+.1%})"
    )
    raise SystemExit(cost >= ALLOWED)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["torch"], ["jax"]):
        raise SystemExit("usage: python benchmarks/save_cost.py torch|jax [BLOCKS]")
    main(sys.argv[1], *map(int, sys.argv[2:]))
