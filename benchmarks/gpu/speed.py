"""Parts of `make gpu` about speed: the compiled step's loops, and two ResNets."""

import os
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.busy import busy_seconds, read_profile
from benchmarks.gpu.checks import TINY, Checks, Failed
from benchmarks.gpu.hlo import is_product, loops_of, products_in_loops
from recipe.config import from_yaml
from recipe.flops import training_flops
from record.run import read_rows
from report.analysis.hardware import flops_per_device, peak_flops
from report.analysis.runs import TimedRun, read_timed_run

MODELS = {
    "ResNet-18": ("experiment=cifar10_resnet18", "train.global_batch_size=1024"),
    "ResNet-50": ("experiment=imagenet_like_resnet50", "train.global_batch_size=256"),
}
PROGRAMS = {
    "torch, eager": ("torch", ()),
    "torch, compile=true": ("torch", ("compile=true",)),
    "torch, compile=max": ("torch", ("compile=max",)),
    "jax": ("jax", ()),
}
# Without a cache, so that the seconds are those of compiling.
TIMED = (
    *("data=synthetic", "precision=bf16", "train.evaluate_every_epochs=0"),
    *("checkpoint.at_end=false", "profile=true", "compile_cache=false"),
)


def loops(checks: Checks) -> None:
    """The step that XLA compiled for this device, as it says itself."""
    checks.check("jax", partial(_loops, checks))


def _loops(checks: Checks) -> dict[str, Any]:
    dump = checks.folder / "hlo"
    given = os.environ.get("XLA_FLAGS", "")
    flags = f"{given} --xla_dump_to={dump} --xla_dump_hlo_module_re=window_step"
    # A cached step would not be compiled, and so not be written.
    typed = [*checks.resnet9, "train.steps=1", "compile_cache=false"]
    checks.train("jax", checks.folder / "run", *typed, XLA_FLAGS=flags.strip())
    (file,) = dump.glob("*window_step*after_optimizations.txt")
    module = file.read_text()
    file.rename(checks.folder / "step.txt")
    shutil.rmtree(dump)  # hundreds of files, of all that led there
    found = {
        "products": sum(map(is_product, module.splitlines())),
        "loops": loops_of(module),
        "products_in_loops": products_in_loops(module),
    }
    if not found["products"]:
        raise Failed("the compiled step has no product", **found)
    if found["loops"] or found["products_in_loops"]:
        raise Failed("the compiled step has a loop, or a product in a branch", **found)
    return found


def speed(checks: Checks) -> None:
    """ResNet-18 and ResNet-50 in bf16, by each program."""
    for model in MODELS:
        for program in PROGRAMS:
            name = f"{model}: {program}"
            checks.check(name, partial(_speed, checks, model, program))


def _speed(checks: Checks, model: str, program: str) -> dict[str, Any]:
    framework, own = PROGRAMS[program]
    if "compile=max" in own:
        checks.needs_gpu("CUDA graphs need a GPU")
    length = ["train.steps=32", "train.timed_seconds=6"]
    typed = [*MODELS[model], *TIMED, *own]
    if checks.rehearsal:
        typed += [*TINY, "model=resnet9"]  # the others compile for minutes on a CPU
        length = ["train.steps=20", "train.timed_seconds=0.2"]
    folder = checks.folder / f"{model} {program}".replace(", ", " ").replace(" ", "-")
    checks.train(framework, folder, *typed, *length)
    found = figures(folder)
    if found["busy_ms"] is None and not checks.rehearsal:
        found["why"] = "the profile has no kernel on a GPU, so its idle time is unknown"
    return found


def figures(folder: Path) -> dict[str, Any]:
    """What a run's record and profile say; times of one step, memory in bytes."""
    run = read_timed_run(folder)
    windows = [row for row in read_rows(folder) if row["kind"] == "window"]
    busy = busy_seconds(read_profile(folder / "profile" / "rank0.json.gz"))
    return {
        "images_per_second": run.images_per_second,
        **times(windows, busy),
        **_use(run),
        "compile_seconds": run.compile_seconds,
        "peak_memory_bytes": run.peak_memory_bytes,
    }


def times(windows: list[dict[str, Any]], busy: float | None) -> dict[str, Any]:
    """Of one step, in ms, and the fraction of it in which the GPU is idle.

    The whole step is of the windows that were timed after the training and not
    profiled, which slows the host; kernels take as long in a profile.

    Args:
      windows: rows of a run.
      busy: seconds of the GPU in the last window of the training.
    """
    timed = [row for row in windows if row["measured"]]
    keys = {"step": "seconds", "host": "dispatch_seconds", "data": "data_seconds"}
    found: dict[str, Any] = {
        f"{name}_ms": 1000 * statistics.median(row[key] / row["steps"] for row in timed)
        for name, key in keys.items()
    }
    if busy is None:
        return found | {"busy_ms": None, "idle_fraction": None}
    profiled = [row["steps"] for row in windows if not row["measured"]][-1]
    each = 1000 * busy / profiled
    idle = max(0.0, 1 - each / found["step_ms"])
    return found | {"busy_ms": each, "idle_fraction": idle}


def _use(run: TimedRun) -> dict[str, Any]:
    """FLOP/s of the model, and their fraction of the device's peak if it is known."""
    config = from_yaml((run.path / "config.yaml").read_text())
    rate = np.array(run.images_per_second)
    flops = float(flops_per_device(rate, training_flops(config), run.world_size))
    peak = peak_flops(run.device, run.precision)
    return {"flops_per_second": flops, "mfu": None if peak is None else flops / peak}
