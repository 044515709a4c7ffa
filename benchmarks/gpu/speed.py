"""Parts of `make gpu` about speed: the compiled step's loops, and two ResNets."""

import os
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.busy import busy_seconds, read_profile
from benchmarks.gpu.checks import TINY, Checks, Failed, Omitted, Refused
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
MAX = "compile=max"  # which not every version of Duet has
PROFILED = 10  # steps of a window, of which the last one is profiled
# Without a cache, so that the seconds are those of compiling.
TIMED = (
    *("data=synthetic", "precision=bf16", "train.evaluate_every_epochs=0"),
    *(f"train.log_every_steps={PROFILED}", "checkpoint.at_end=false"),
    *("profile=true", "compile_cache=false"),
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
    length = ["train.steps=30", "train.timed_seconds=6"]
    typed = [*MODELS[model], *TIMED, *own]
    if checks.rehearsal:
        typed += TINY
        length = ["train.steps=20", "train.timed_seconds=0.2"]
    folder = checks.folder / f"{model} {program}".replace(", ", " ").replace(" ", "-")
    try:
        checks.train(framework, folder, *typed, *length)
    except Refused as refused:
        if MAX in own:
            raise Omitted(str(refused)) from refused
        raise
    return figures(folder)


def figures(folder: Path) -> dict[str, Any]:
    """What a run's record and profile say of one step, in ms; memory in bytes."""
    run = read_timed_run(folder)
    windows = [row for row in read_rows(folder) if row.get("measured")]
    per_step = {
        name: 1000 * statistics.median(w[key] / w["steps"] for w in windows)
        for name, key in (
            ("step_ms", "seconds"),
            ("host_ms", "dispatch_seconds"),
            ("data_ms", "data_seconds"),
        )
    }
    busy = busy_seconds(read_profile(folder / "profile" / "rank0.json.gz"))
    busy_ms = None if busy is None else 1000 * busy / PROFILED
    # Of steps that were not profiled: a profile slows the host, but no kernel.
    idle = None if busy_ms is None else max(0.0, 1 - busy_ms / per_step["step_ms"])
    return {
        "images_per_second": run.images_per_second,
        **per_step,
        "busy_ms": busy_ms,
        "idle_fraction": idle,
        **_use(run),
        "compile_seconds": run.compile_seconds,
        "peak_memory_bytes": run.peak_memory_bytes,
    }


def _use(run: TimedRun) -> dict[str, Any]:
    """FLOP/s of the model, and their fraction of the device's peak if it is known."""
    config = from_yaml((run.path / "config.yaml").read_text())
    rate = np.array(run.images_per_second)
    flops = float(flops_per_device(rate, training_flops(config), run.world_size))
    peak = peak_flops(run.device, run.precision)
    return {"flops_per_second": flops, "mfu": None if peak is None else flops / peak}
