"""Parts of `make gpu` that compare runs: parity, bits, and resuming."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import FRAMEWORKS, Checks, Failed, products, twin_arguments
from launch.children import ROOT
from launch.trainings import quoted
from record.rows import last_step
from record.run import read_run
from record.stopping import STOP
from report.parity.differences import losses

STOPPED = 75  # exit status of a run that was asked to stop, and has saved
POLL_SECONDS = 0.01
QUICK = ("train.evaluate_every_epochs=0", "checkpoint.at_end=false")
PRECISIONS = {
    "fp32": (),
    "tf32": (),
    "bf16": (),
    "fp16": ("precision.loss_scale.initial=1024",),  # as conf/identity.yaml has it
}
FACTS = ("a", "b", "verdict", "test_difference", "broken", "unseen")  # of a comparison


def parity(checks: Checks) -> None:
    """TF32 on or off by precision in both frameworks; then parity in each."""
    for precision in ("fp32", "tf32"):
        for framework in FRAMEWORKS:
            probe = partial(products, checks, framework, precision)
            checks.check(f"{framework}: products in {precision}", probe)
    for precision in PRECISIONS:
        checks.check(f"parity in {precision}", partial(_parity, checks, precision))


def _parity(checks: Checks, precision: str) -> dict[str, Any]:
    folder = checks.folder / precision
    typed = [f"precision={precision}", *PRECISIONS[precision], "world_sizes=[1]"]
    typed += [f"platform={checks.platform}", f"run.dir={quoted(folder)}"]
    small = ["train.steps=4", "controls=1"]  # else what the bounds are for, 100 steps
    typed += small if checks.rehearsal else ["controls=2", "timeout_seconds=150"]
    verdict = folder / "parity.json"
    try:
        checks.run(["launch/parity.py", *checks.resnet9, *typed])
    except Failed as failed:
        if verdict.exists():
            raise Failed(str(failed), **_judged(verdict)) from failed
        raise
    return _judged(verdict)


def _judged(file: Path) -> dict[str, Any]:
    """A verdict without its curves: those are in its file."""
    held = json.loads(file.read_text())
    compared = [
        {key: of[key] for key in FACTS}
        | {"step_1": of["differences"][0], "worst_step": max(of["differences"])}
        | {"worst_weight": max(of["leaves"].values())}
        for of in held["comparisons"]
    ]
    return {"verdict": held["verdict"], "comparisons": compared}


def bits(checks: Checks) -> None:
    """Two deterministic runs of each framework."""
    for framework in FRAMEWORKS:
        checks.check(framework, partial(_bits, checks, framework))


def _bits(checks: Checks, framework: str) -> dict[str, Any]:
    steps = 4 if checks.rehearsal else 40
    typed = [*checks.resnet9, *QUICK, "deterministic=true", f"train.steps={steps}"]
    folders = [checks.folder / f"{framework}-{n}" for n in (1, 2)]
    for folder in folders:
        checks.train(framework, folder, *typed)
    return {"steps": steps, **same_bits(*folders)}


def same_bits(one: Path, other: Path) -> dict[str, Any]:
    """How much of two runs was compared, and is equal.

    Raises:
      Failed: naming the first step and the weights that differ in any bit.
    """
    a, b = read_run(one), read_run(other)
    weights = [n for n, x in a.weights.items() if x.tobytes() != b.weights[n].tobytes()]
    pairs = zip(losses(a), losses(b), strict=True)
    steps = [step for step, (x, y) in enumerate(pairs, start=1) if x != y]
    if weights or steps:
        named = f"{', '.join(weights[:3])}{' …' if len(weights) > 3 else ''}"
        raise Failed(
            f"{len(weights)} of {len(a.weights)} weights differ ({named}), losses from "
            f"step {steps[0] if steps else 'none'}"
        )
    return {"equal_weights": len(a.weights), "equal_losses": len(losses(a))}


def resume(checks: Checks) -> None:
    """A run that is stopped by its STOP file, then by SIGTERM, and resumed."""
    for framework in FRAMEWORKS:
        checks.check(framework, partial(_resume, checks, framework))


def _resume(checks: Checks, framework: str) -> dict[str, Any]:
    steps = 100 if checks.rehearsal else 300  # so many that a stop arrives in time
    typed = [*checks.resnet9, *QUICK, "deterministic=true", f"train.steps={steps}"]
    typed += ["train.log_every_steps=5"]
    whole, run = (checks.folder / f"{framework}-{n}" for n in ("whole", "stopped"))
    checks.train(framework, whole, *typed)
    after = []
    for how in (STOP, signal.SIGTERM.name):
        given = twin_arguments(framework, checks.platform, run, typed)
        after.append(_stopped([sys.executable, *given], run, how, sum(after[-1:]) + 1))
    checks.train(framework, run, *typed)
    return {"stopped_after_steps": after, "steps": steps, **same_bits(whole, run)}


def _stopped(command: list[str], run: Path, how: str, step: int) -> int:
    """Stop a run once it has recorded a step; returns its last one.

    Raises:
      Failed: if it does not save and leave, as a run does that was asked to stop.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    while process.poll() is None and last_step(run / "metrics.jsonl") < step:
        time.sleep(POLL_SECONDS)
    if how == STOP:
        (run / STOP).touch()
    else:
        process.send_signal(signal.Signals[how])
    if (status := process.wait()) != STOPPED:
        raise Failed(f"exit status {status} after {how}, expected {STOPPED}")
    return last_step(run / "metrics.jsonl")
