"""Common to all peers: arguments, images, and timing."""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable

BEGIN = time.perf_counter()

import numpy as np  # noqa: E402

IMAGES = 8192
WARM_SECONDS, WINDOWS = 0.5, 5
WARM_WINDOWS, IN_STEP_WINDOWS = 3, 9


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", help="mlp, cnn, resnet9, resnet18 or vit_tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0, help="times all channels")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed, at least")
    parser.add_argument("--devices", type=int, default=1, help="of JAX, a core each")
    return parser.parse_args()


def pixels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """8,192 images, uint8 NHWC, of the model's size, and labels."""
    shape = (28, 28, 1) if name in ("mlp", "cnn") else (32, 32, 3)
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(IMAGES, *shape), dtype=np.uint8)
    return images, generator.integers(10, size=IMAGES)


def keep_to_cores(first: int, count: int) -> None:
    """Pin the process to these cores, before a framework is imported."""
    cores = sorted(os.sched_getaffinity(0))[first : first + count]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = os.environ["NPROC"] = str(count)


def report(
    step: Callable[[int], None], wait: Callable[[], None], asked: argparse.Namespace
) -> None:
    """Time windows of steps, and print the median of their rates, images/s, as JSON.

    Args:
      step: is given its number, from 0.
      wait: waits until the device has finished all work.
    """
    first = time.perf_counter()
    step(0)
    wait()
    compiled = time.perf_counter()
    done, begin = 1, compiled
    while (spent := time.perf_counter() - begin) < WARM_SECONDS:
        step(done)
        done += 1
        wait()
    size = max(1, round((done - 1) / spent * asked.seconds / WINDOWS))
    rates, timed = [], 0.0
    while timed < asked.seconds or len(rates) < WINDOWS:
        begin = time.perf_counter()
        for number in range(done, done + size):
            step(number)
        wait()
        seconds = time.perf_counter() - begin
        done += size
        timed += seconds
        rates.append(size * asked.batch / seconds)
    print(
        json.dumps(
            {
                "images_per_second": statistics.median(rates),
                "startup_seconds": first - BEGIN,
                "compile_seconds": compiled - first,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


def report_in_step(
    step: Callable[[int], None],
    wait: Callable[[], None],
    batch: int,
    tells: bool = True,
) -> None:
    """`report` for synchronised ranks, with windows of 20 steps.

    Args:
      batch: examples of a step on one device; the rate is per device.
      tells: whether this rank prints.
    """
    seconds = []
    for window in range(WARM_WINDOWS + IN_STEP_WINDOWS):
        begin = time.perf_counter()
        for number in range(20 * window, 20 * (window + 1)):
            step(number)
        wait()
        seconds.append(time.perf_counter() - begin)
    rates = [20 * batch / s for s in seconds[WARM_WINDOWS:]]
    if tells:
        print(json.dumps({"images_per_second": statistics.median(rates)}))
