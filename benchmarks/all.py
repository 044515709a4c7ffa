"""Compare each twin with a bare loop and the usual script: `make bench`.

    python benchmarks/all.py            all benchmarks, then docs/performance.md
    python benchmarks/all.py cnn mlp    these alone, printed and not written
    python benchmarks/all.py --repeats 3    quicker and less precise

Every measurement is a separate process. In a repeat each program of a benchmark runs
once, in a random order, and ratios are computed within it: what slows the machine for
minutes affects both terms. Exit status 1 if the 95 % interval of a ratio is entirely on
the wrong side of its bound in benchmarks/bounds.yaml, unless plain loops of both
frameworks miss that bound as well.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != ROOT)]

from benchmarks.page import (  # noqa: E402
    ACROSS,
    BARE_LOOPS,
    operations,
    page,
    rates,
    table,
    verdicts,
)
from launch.nodes import own_cores  # noqa: E402
from report.analysis.intervals import Estimate, median_estimate  # noqa: E402

REPEATS, FEWER, FEWEST = 7, 4, 3  # of a model's programs, of the rest, of two devices
TIMED = ["train.steps=5", "train.timed_seconds=2"]  # of a twin
FRAMEWORKS = ("torch", "jax")
SCRIPTS = {"torch": "launch/pytorch.py", "jax": "launch/jax.py"}
IMPORTS = {"torch": "import torch", "jax": "import jax, flax.nnx, optax"}
NOW = "import json, time; print(json.dumps({'at': time.time()}))"
MATRIX = yaml.safe_load((ROOT / "benchmarks" / "bounds.yaml").read_text())
MODELS: dict[str, dict[str, Any]] = MATRIX["models"]
Figures = dict[str, dict[str, Any]]  # title -> benchmark or framework -> figure


class Failed(Exception):
    """A program that failed."""


def run(command: list[str], **environment: str) -> str:
    """The output of a new process.

    Raises:
      Failed: with the end of its output.
    """
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Failed(f"{' '.join(command)} exited with {done.returncode}: {output}")
    return done.stdout


def last_json(text: str) -> dict[str, Any]:
    return json.loads(text.strip().splitlines()[-1])


def train(framework: str, overrides: list[str], processes: int = 1) -> dict[str, Any]:
    """The summary of a run in a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        program = [SCRIPTS[framework], *overrides, f"run.dir={folder}"]
        run(torchrun(processes, program) if processes > 1 else program)
        return json.loads((folder / "summary.json").read_text())


def recipe(benchmark: str) -> list[str]:
    """The twin's overrides, so that it does the same as its peers."""
    model = MODELS[benchmark]
    batch = f"train.global_batch_size={model['batch']}"
    width = [f"model.width={model['width']}"] if model["width"] != 1 else []
    return [*model["recipe"].split(), *MATRIX["common"].split(), batch, *width]


def program(benchmark: str, framework: str, kind: str) -> dict[str, Any]:
    """Run a twin or a peer once: images/s, start-up and compile seconds, memory."""
    model = MODELS[benchmark]
    if kind == "twin":
        summary = train(framework, [*recipe(benchmark), *TIMED])
        return {
            "images_per_second": summary["images_per_second"]["median"],
            "startup_seconds": summary["startup_seconds"],
            "compile_seconds": summary["compile_seconds"],
            "peak_bytes": summary["peak_memory_bytes"],
        }
    name = model.get("peer", benchmark)
    peer = [f"benchmarks/peers/{framework}_{kind}.py", name]
    size = ["--batch", str(model["batch"]), "--width", str(model["width"])]
    return last_json(run([*peer, *size]))


def benchmark_model(
    benchmark: str, seed: int, repeats: int
) -> tuple[Figures, dict[str, Any]]:
    """The ratios of one model, and every figure of its programs."""
    kinds = ["twin", "bare", *["usual"] * MODELS[benchmark]["usual"]]
    generator, seen = random.Random(seed), defaultdict(list)
    for repeat in range(repeats):
        # Usual scripts are far from their bounds, and need fewer.
        measured = kinds if repeat < FEWER else kinds[:2]
        programs = [(framework, kind) for framework in FRAMEWORKS for kind in measured]
        for framework, kind in generator.sample(programs, len(programs)):
            seen[framework, kind].append(program(benchmark, framework, kind))
    rates = {key: [m["images_per_second"] for m in runs] for key, runs in seen.items()}

    def ratio(over: tuple[str, str], under: tuple[str, str]) -> Estimate:
        pairs = zip(rates[over], rates[under], strict=False)  # of the same repeats
        return median_estimate([a / b for a, b in pairs])

    figures = {
        f"{framework} twin / {name}": {
            benchmark: ratio((framework, "twin"), (framework, of))
        }
        for framework in FRAMEWORKS
        for of, name in (("bare", "bare loop"), ("usual", "usual script"))
        if of in kinds
    }
    figures["jax twin / torch twin"] = {
        benchmark: ratio(("jax", "twin"), ("torch", "twin"))
    }
    plain = ratio(("jax", "twin"), ("torch", "bare"))
    figures[ACROSS] = {benchmark: plain}
    figures[BARE_LOOPS] = {benchmark: ratio(("jax", "bare"), ("torch", "bare"))}
    return figures, {f"{f} {kind}": runs for (f, kind), runs in seen.items()}


def startup_cell() -> Figures:
    """From the command to the end of the first step, over the bare import.

    The process itself reports when each ends, so its shutdown does not count.
    """
    asked = ["experiment=digits_mlp", "train.steps=1"]
    ratios = defaultdict(list)
    for repeat in range(1 + FEWER):  # the first one warms caches
        for framework in FRAMEWORKS:
            begin = time.time()
            imported = last_json(run(["-c", f"{IMPORTS[framework]}; {NOW}"]))["at"]
            bare, begin = imported - begin, time.time()
            first = recorded(framework, asked)["first_step_at"] - begin
            if repeat:
                ratios[framework].append(first / bare)
    return {
        "first step / bare import": {f: median_estimate(r) for f, r in ratios.items()}
    }


def recorded(framework: str, overrides: list[str]) -> dict[str, Any]:
    """The output of benchmarks/recording.py for a run in a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        own = [*overrides, f"run.dir={place}/run"]
        return last_json(run(["benchmarks/recording.py", framework, *own]))


def recording_cell() -> Figures:
    """The cost of recording, W&B and progress, relative to the CNN's step time."""
    shares = defaultdict(list)
    for framework in FRAMEWORKS:
        for _ in range(FEWER):
            asked = [*recipe("cnn"), "train.steps=300", "tracking=wandb"]
            spent = recorded(framework, asked)
            share = sum(spent["recorded"][1:]) / sum(spent["stepped"][1:])
            shares[framework].append(share)
    return {"recording / step": {f: median_estimate(s) for f, s in shares.items()}}


def bare_rate(peer: str, processes: int, devices: int = 1) -> float:
    """Images/s per device, a core each, of the CNN's bare loop on several."""
    program = [f"benchmarks/peers/{peer}.py", "cnn", "--devices", str(devices)]
    if peer == "torch_ddp" or processes > 1:
        program = torchrun(processes, program)
    return last_json(run(program))["images_per_second"]


def twin_rate(framework: str, processes: int, devices: int = 1, *own: str) -> float:
    """Images/s per device, a core each, of the CNN's twin on several."""
    count = processes * devices
    batch = f"train.global_batch_size={count * MODELS['cnn']['batch']}"
    place = [f"devices={count}", "parallel.cores_per_device=1", batch]
    summary = train(framework, [*recipe("cnn"), *place, *own, *TIMED], processes)
    return summary["images_per_second"]["median"] / count


def torchrun(processes: int, program: list[str]) -> list[str]:
    ranks = [f"--nproc-per-node={processes}", "--rdzv-backend=c10d"]
    launcher = ["-m", "torch.distributed.run", "--rdzv-endpoint=127.0.0.1:0"]
    return [*launcher, *ranks, *program]


def exchange_cell() -> Figures:
    """Weak scaling of the CNN from one core to two, beside plain programs."""
    two = "efficiency of two processes"
    inside = "efficiency of two devices in one process"
    found = defaultdict(lambda: defaultdict(list))  # title -> framework -> of repeats
    for _ in range(FEWEST):
        for framework, peer in ("torch", "torch_ddp"), ("jax", "jax_sharded"):
            one, bare = twin_rate(framework, 1), bare_rate(peer, 1)
            whole = twin_rate(framework, 2) / one
            alone = twin_rate(framework, 2, 1, "parallel.grad_sync=false") / one
            plain = bare_rate(peer, 2) / bare
            found[two][framework].append(whole)
            found[f"{two}, without the exchange"][framework].append(alone)
            found[f"{two}, bare loop"][framework].append(plain)
            found[f"{two} / bare loop's"][framework].append(whole / plain)
            if framework == "jax":
                whole = twin_rate(framework, 1, 2) / one
                plain = bare_rate(peer, 1, 2) / bare
                found[inside][framework].append(whole)
                found[f"{inside}, bare loop"][framework].append(plain)
                found[f"{inside} / bare loop's"][framework].append(whole / plain)
    return {
        title: {framework: median_estimate(ratios) for framework, ratios in of.items()}
        for title, of in found.items()
    }


OTHERS = {
    "startup": startup_cell,
    "recording": recording_cell,
    "exchange": exchange_cell,
}


def main(typed: list[str]) -> int:
    """Measure what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--repeats", type=int, help="of each program of a model")
    asked = parser.parse_args(typed)
    names, repeats = asked.names, asked.repeats
    known = [*MODELS, *OTHERS]
    if unknown := sorted(set(names) - set(known)):
        print(f"error: {', '.join(unknown)} is unknown; benchmarks: {', '.join(known)}")
        return 2
    chosen = names or known
    if own_cores() < 2 and "exchange" in chosen:
        print("exchange: skipped, since two devices need two cores")
        chosen = [name for name in chosen if name != "exchange"]
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"this machine is busy (load {load:.1f}); figures will vary")
    begin, figures, runs = time.perf_counter(), defaultdict(dict), {}
    failed = False
    with tempfile.TemporaryDirectory() as cache:
        # So that the first compilation is not cached, whatever ran before.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        for benchmark in chosen:
            try:
                if benchmark in MODELS:
                    count = repeats or MODELS[benchmark].get("repeats", REPEATS)
                    new, runs[benchmark] = benchmark_model(
                        benchmark, known.index(benchmark), count
                    )
                else:
                    new = OTHERS[benchmark]()
            except Failed as error:
                print(f"{benchmark}: {error}", flush=True)
                failed = True
                continue
            for title, of in new.items():
                figures[title] |= of
            print(f"{benchmark}: {time.perf_counter() - begin:.0f} s", flush=True)
    judged = verdicts(figures, MATRIX)
    print(table(judged))
    if not names:
        peak = float(
            run(["benchmarks/matmul.py"]).split("fp32: --peak-flops ")[1].split()[0]
        )
        ops = {}
        for framework in FRAMEWORKS:
            ops |= last_json(run(["benchmarks/single_ops.py", framework]))
        programs = rates(
            runs, {benchmark: recipe(benchmark) for benchmark in runs}, peak
        )
        measured = f"""## Every program

MFU is of {peak / 1e9:.0f} GFLOP/s, the best that benchmarks/matmul.py finds in fp32.

{programs}

## Single operations

{operations(ops)}"""
        minutes = (time.perf_counter() - begin) / 60
        counts = sorted(
            {len(of) for benchmark in runs.values() for of in benchmark.values()}
        )
        many = " to ".join(
            str(count) for count in dict.fromkeys((counts[0], counts[-1]))
        )
        how = f"{many} repeats in {minutes:.0f} minutes"
        page(ROOT / "docs" / "performance.md", judged, measured, how)
    missed = [verdict for verdict in judged if verdict.missed]
    for verdict in missed:
        print(f"missed: {verdict}")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except Failed as error:
        raise SystemExit(f"error: {error}") from None
