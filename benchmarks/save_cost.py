"""What saving every 10 steps adds to a step of fashion_cnn, within one run.

    python benchmarks/save_cost.py torch|jax [BLOCKS]

Blocks of windows that save and of such that do not take turns (10 of each), so that
whatever else the machine does meets both. A window counts from its first step until the
next may begin; the first of each block, over which the last save may still be written,
does not. Leaves with 1 where saving costs 5 % or more.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
os.environ.setdefault("OMP_NUM_THREADS", "1")

from recipe.batch_plan import BatchPlan  # noqa: E402

STEPS, WINDOWS, ALLOWED = 10, 5, 0.05
SCRIPTS = {"torch": "pytorch", "jax": "jax"}
SECONDS: dict[bool, list[float]] = {True: [], False: []}  # by whether it saves


def take_turns(windows: Any) -> Any:
    """Windows of which every second block saves, and each of which is timed."""

    def timed(*arguments: Any) -> Iterator[Any]:
        for number, window in enumerate(windows(*arguments)):
            block, place = divmod(number, WINDOWS)
            saves = block % 2 == 1
            begin = time.perf_counter()
            yield replace(window, saves=saves)
            if place > 0 and block > 0:  # the first block warms up
                SECONDS[saves].append(time.perf_counter() - begin)

    return timed


def main(framework: str, blocks: int = 10) -> None:
    steps = (2 * blocks + 1) * WINDOWS * STEPS
    BatchPlan.windows = take_turns(BatchPlan.windows)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [
            *("experiment=fashion_cnn", "data=synthetic", "data.train_examples=12800"),
            *(f"train.steps={steps}", f"train.window_steps={STEPS}"),
            *("train.evaluate_every_epochs=0", f"checkpoint.every_steps={STEPS}"),
            f"run.dir={folder}/run",
        ]
        script = __import__(f"launch.{SCRIPTS[framework]}", fromlist=["main"])
        script.main(framework, script.twin, script.STOPPING)
    without, saving = (statistics.median(SECONDS[saves]) for saves in (False, True))
    cost = saving / without - 1
    print(
        f"{framework}: a step takes {1e3 * without / STEPS:.2f} ms without saves and "
        f"{1e3 * saving / STEPS:.2f} ms with one every {STEPS} steps, {cost:+.1%}; "
        f"medians of {len(SECONDS[True])} windows each"
    )
    raise SystemExit(cost >= ALLOWED)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
