"""What a rank runs first so that something goes wrong in it at a point of its run."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

Action = Callable[[], object]


def at(target: str, action: Action, call: int = 1, after: bool = False) -> None:
    """Act when a function is called: `at("record.checkpoint:write_file", kill, 2)`.

    Args:
      call: the first is 1.
      after: once it has done its work, rather than before.
    """
    module, _, path = target.partition(":")
    place: Any = import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        place = getattr(place, part)
    original, calls = getattr(place, name), [0]

    def faulty(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and not after:
            action()
        result = original(*arguments, **named)
        if calls[0] == call and after:
            action()
        return result

    setattr(place, name, faulty)


def at_step(step: int, action: Action) -> None:
    """Act before a step, from 1, is taken, in whichever twin this process has."""
    module = import_module(f"{twin()}_impl.train")
    planned, window, done = module.window_batches, [], []

    def plan(config: Any, plan: Any, steps: range, *rank: int) -> Any:
        window[:] = steps
        return planned(config, plan, steps, *rank)

    def reach(position: int) -> None:
        if window[position] + 1 == step and not done:
            done.append(True)
            action()

    module.window_batches = plan
    if twin() == "torch":
        one_step = module.one_step

        def faulty(batches: Any, position: int) -> Any:
            reach(position)
            return one_step(batches, position)

        module.one_step = faulty
        return
    module = import_module("jax_impl.step")
    parallelize = module.parallelize  # its compiled step has no name to be found by

    def parallelized(*given: Any, donate: bool) -> Any:
        compiled, seconds = parallelize(*given, donate=donate)

        def faulty(*arguments: Any) -> Any:
            reach(int(arguments[-1].addressable_data(0).ravel()[0]))
            return compiled(*arguments)

        return faulty if donate else compiled, seconds

    module.parallelize = parallelized


def in_twin(name: str, action: Action, call: int = 1) -> None:
    """Act when a run calls a function of its own twin: `start`, `evaluate`."""
    module = f"{twin()}_impl.train"
    if not hasattr(import_module(module), name):
        module = f"{twin()}_impl.step"  # where JAX parallelizes its steps
    at(f"{module}:{name}", action, call)


def twin() -> str:
    return "jax" if "jax_impl.train" in sys.modules else "torch"


def send(number: int) -> Action:
    return lambda: os.kill(os.getpid(), number)


kill, freeze = send(signal.SIGKILL), send(signal.SIGSTOP)
terminate, interrupt = send(signal.SIGTERM), send(signal.SIGINT)
notify = send(signal.SIGUSR1)


def sleep(seconds: float) -> Action:
    return lambda: time.sleep(seconds)


def wait_for(path: str) -> Action:
    def act() -> None:
        while not os.path.exists(path):
            time.sleep(0.05)

    return act


def later(seconds: float, action: Action) -> Action:
    """From another thread, wherever the main thread is by then."""
    return lambda: threading.Timer(seconds, action).start()


def one_after_another(*actions: Action) -> Action:
    def act() -> None:
        for action in actions:
            action()

    return act


def fail(error: BaseException) -> Action:
    def act() -> None:
        raise error

    return act


disk_fails = fail(OSError(errno.EIO, os.strerror(errno.EIO)))
disk_is_full = fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def fill(folder: str) -> Action:
    """Leave no room on the file system of a folder."""

    def act() -> None:
        with Path(folder, "ballast").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    return

    return act


def touch(path: str) -> Action:
    return lambda: Path(path).touch()


def set_clock_back(seconds: float) -> Action:
    def act() -> None:
        right = time.time
        time.time = lambda: right() - seconds

    return act


def not_a_number() -> None:
    """Pixels of this rank become NaN."""
    module = import_module(f"{twin()}_impl.train")
    original = module.pixel_affine

    def poisoned(config: Any) -> Any:
        return tuple(constant * float("nan") for constant in original(config))

    module.pixel_affine = poisoned


def run(*command: str) -> Action:
    return lambda: subprocess.run(command, check=True)
