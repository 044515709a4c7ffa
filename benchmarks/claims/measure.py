"""What `make claims` measures, each in processes of its own; raw figures of repeats."""

import json
import random
import shlex
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.all import (
    FRAMEWORKS,
    MATRIX,
    ROOT,
    SCRIPTS,
    Failed,
    last_json,
    run,
    train,
)
from benchmarks.claims.lines import count_lines
from benchmarks.page import typed
from launch.nodes import own_cores
from recipe.flops import training_flops
from recipe.weights import initial_weights
from record.gpus import list_gpus
from record.trace import read_trace

NOTES: dict[str, Any] = yaml.safe_load(
    (Path(__file__).resolve().parent / "claims.yaml").read_text()
)
HERE = "benchmarks/claims"
# What runs after each other on one cache: a cold run fills it for the warm one.
GROUPS = (
    ("torch eager",),
    ("torch compiled, cold", "torch compiled, warm"),
    ("jax, cold", "jax, warm"),
)
PROGRAMS = [program for group in GROUPS for program in group]
CACHES = {"torch": "TORCHINDUCTOR_CACHE_DIR", "jax": "JAX_COMPILATION_CACHE_DIR"}
Say = Callable[[str], None]


def cost(say: Say) -> dict[str, Any]:
    """Model -> FLOPs of a step, and program -> its repeats' seconds and bytes."""
    measured = {}
    for number, (model, recipe) in enumerate(NOTES["models"].items()):
        overrides = [*recipe.split(), *MATRIX["common"].split()]
        config = typed(overrides)
        batch = config.train.global_batch_size
        repeats = defaultdict(list)
        generator = random.Random(number)
        for _ in range(NOTES["repeats"]):
            with tempfile.TemporaryDirectory() as cache:
                for group in generator.sample(GROUPS, len(GROUPS)):
                    framework = group[0].partition(" ")[0].strip(",")
                    more = ["compile=true"] if "compiled" in group[0] else []
                    place = {CACHES[framework]: f"{cache}/{framework}"}
                    for program in group:
                        given = framework, [*overrides, *more], batch, place
                        repeats[program].append(one_run(*given))
        flops = training_flops(config) * batch
        measured[model] = {
            "flops": flops,
            "programs": {p: repeats[p] for p in PROGRAMS},
        }
        say(f"cost of {model}")
    return measured


def one_run(
    framework: str, overrides: list[str], batch: int, environment: dict[str, str]
) -> dict[str, float | None]:
    """Seconds of import, start, compilation and a step, and peak bytes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        given = [*overrides, *NOTES["timed"].split(), f"run.dir={folder}"]
        begin = time.time()
        told = last_json(run([f"{HERE}/timed.py", framework, *given], **environment))
        summary = json.loads((folder / "summary.json").read_text())
        devices = json.loads((folder / "environment.json").read_text())["devices"]
    step = batch / summary["images_per_second"]["median"]
    imported = told["imported_at"] - begin
    first = told["first_window_at"] - begin
    start = summary["startup_seconds"] - imported
    on_cpu = all("cpu" in device.lower() for device in devices)
    return {
        "import": imported,
        "start": start,
        "compile": first - summary["startup_seconds"] - told["first_steps"] * step,
        "step": step,
        "peak_process": told["peak_process_bytes"],
        "peak_device": None if on_cpu else summary["peak_memory_bytes"],
    }


def scaling(say: Say) -> dict[str, list[float]]:
    """Weak scaling of the CNN from one device to two, processes of a core each.

    Empty with fewer than two devices.
    """
    gpus = list_gpus()
    if (own_cores() if gpus is None else len(gpus)) < 2:
        return {}
    efficiency = defaultdict(list)
    overrides = [*NOTES["models"]["cnn"].split(), *MATRIX["common"].split()]
    for _ in range(NOTES["repeats"]):
        for framework in FRAMEWORKS:
            one, two = (rate(framework, overrides, count) for count in (1, 2))
            efficiency[framework].append(two / one)
    say("scaling")
    return dict(efficiency)


def rate(framework: str, overrides: list[str], processes: int) -> float:
    """Images/s per device."""
    batch = f"train.global_batch_size={128 * processes}"
    own = [*NOTES["timed"].split(), batch, "parallel.cores_per_device=1"]
    summary = train(framework, [*overrides, *own], processes)
    return summary["images_per_second"]["median"] / processes


def restart(say: Say) -> dict[str, dict[str, list[float]]]:
    """Seconds from the command to the end of the first window, fresh and resumed."""
    seconds = {f: {"fresh": [], "resumed": []} for f in FRAMEWORKS}
    overrides = [*NOTES["models"]["cnn"].split(), *MATRIX["common"].split()]
    overrides += ["train.steps=10000", "train.log_every_steps=1"]
    for _ in range(NOTES["repeats"]):
        for framework in FRAMEWORKS:
            with tempfile.TemporaryDirectory() as place:
                cache = {"JAX_COMPILATION_CACHE_DIR": f"{place}/cache"}
                given = [framework, "--stop", *overrides, f"run.dir={place}/run"]
                for kind in seconds[framework]:
                    begin = time.time()
                    told = last_json(run([f"{HERE}/timed.py", *given], **cache))
                    seconds[framework][kind].append(told["first_window_at"] - begin)
    say("restart")
    return seconds


def gradient(say: Say) -> dict[str, list[float]]:
    """Program -> seconds to the first gradient of a changed CNN."""
    seconds = {"torch eager": [], "torch compiled": [], "jax": []}
    for _ in range(NOTES["repeats"]):
        for program, its in seconds.items():
            with tempfile.TemporaryDirectory() as cache:
                place = {"TORCHINDUCTOR_CACHE_DIR": cache}
                child = ["benchmarks/peers/first_gradient.py", *program.split()]
                its.append(last_json(run(child, **place))["seconds"])
    say("gradient")
    return seconds


def nan(say: Say) -> dict[str, dict[str, Any]]:
    """Seconds and steps until the layer with a planted NaN is named, in two ways."""
    recipe, leaf = NOTES["nan"]["recipe"], NOTES["nan"]["leaf"]
    layer = leaf.rpartition(".")[0]
    found: dict[str, dict[str, Any]] = {}
    with planted(recipe, leaf) as file:
        for framework in FRAMEWORKS:
            traced, own, steps = [], [], []
            for _ in range(NOTES["repeats"]):
                seconds, named, count = by_trace(framework, recipe, file)
                child = last_json(run([f"{HERE}/nan.py", framework, recipe, str(file)]))
                for by, name in (("trace", named), ("tool", child["named"])):
                    if name != layer:
                        raise Failed(f"{framework}: the {by} names {name}, not {layer}")
                traced.append(seconds)
                own.append(child["seconds"])
                steps.append(count)
            found[framework] = {"trace": traced, "tool": own, "steps": max(steps)}
    say("nan")
    return found


@contextmanager
def planted(recipe: str, leaf: str) -> Iterator[Path]:
    """A file of initial weights in which one number is NaN."""
    weights = initial_weights(typed(recipe.split()))
    weights[leaf] = weights[leaf].copy()
    weights[leaf].flat[0] = np.nan
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "planted.npz"
        np.savez(file, allow_pickle=False, **weights)
        yield file


def by_trace(framework: str, recipe: str, file: Path) -> tuple[float, str, int]:
    """As a user would: a run names the step, the same with train.trace the layer.

    Returns:
      Seconds in total, the first layer whose output is not finite, and steps taken.
    """
    with tempfile.TemporaryDirectory() as place:
        begin, steps = time.time(), 0
        for name, more in (("first", ""), ("traced", "train.trace=1 train.steps=1")):
            given = [*recipe.split(), f"model.weights={file}", *more.split()]
            try:
                run([SCRIPTS[framework], *given, f"run.dir={place}/{name}"])
            except Failed as error:
                if "the loss is nan at step 1," not in str(error):
                    raise
            summary = json.loads((Path(place) / name / "summary.json").read_text())
            steps += summary["steps"]
        outputs = read_trace(Path(place) / "traced", 1).outputs
        named = (n for n, array in outputs.items() if not np.isfinite(array).all())
        return time.time() - begin, next(named, "none"), steps


def nnx(say: Say) -> dict[str, Any]:
    """Microseconds per variable and flattening of a model's state, and their number."""
    told = [last_json(run([f"{HERE}/flatten.py"])) for _ in range(NOTES["repeats"])]
    say("nnx")
    return {
        "variables": told[0]["variables"],
        "microseconds": [t["microseconds"] for t in told],
    }


def lines(say: Say) -> dict[str, dict[str, int]]:
    say("lines")
    return count_lines(ROOT)


PARTS: dict[str, Callable[[Say], Any]] = {
    "cost": cost,
    "scaling": scaling,
    "restart": restart,
    "gradient": gradient,
    "nan": nan,
    "nnx": nnx,
    "lines": lines,
}


def gate() -> None:
    """The parity check before any figure.

    Raises:
      Failed: if the twins are not identical in fp64.
    """
    with tempfile.TemporaryDirectory() as place:
        given = shlex.split(NOTES["gate"])
        run(["launch/parity.py", *given, f"run.dir={place}/parity"])
