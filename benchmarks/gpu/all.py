"""Everything that a lent GPU can tell, in one command: `make gpu`.

    python benchmarks/gpu/all.py
    python benchmarks/gpu/all.py --minutes 25 --only parity,speed
    DUET_GPU_REHEARSAL=1 python benchmarks/gpu/all.py    on a CPU, in tiny shapes

Runs the parts of benchmarks/gpu/plan.py, each a process with a time limit, and writes a
JSON file for each and summary.md to one folder, complete whenever this is cut off. Exit
status 0 if every part ended and none failed; after a signal 128 and its number. Needs
no installation of Duet.
"""

import argparse
import os
import shlex
import signal
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != HERE)]

# What the parts import -> the package that has it.
NEEDED = {
    **{"filelock": "filelock", "flax": "flax", "hydra": "hydra-core", "jax": "jax"},
    **{"jaxtyping": "jaxtyping", "matplotlib": "matplotlib", "numpy": "numpy"},
    **{"omegaconf": "omegaconf", "optax": "optax", "psutil": "psutil"},
    **{"pynvml": "nvidia-ml-py", "rich": "rich", "safetensors": "safetensors"},
    **{"scipy": "scipy", "torch": "torch", "yaml": "pyyaml"},
}
# Of a rehearsal: tiny shapes are slower on several threads, which wait by spinning.
ON_A_CPU = {
    **{"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"},
    **{"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"},
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(typed: list[str]) -> int:
    """Run the plan; returns the exit status."""
    lacking = [package for name, package in NEEDED.items() if find_spec(name) is None]
    if lacking:
        return refuse(f"{sys.executable} lacks {', '.join(lacking)}: install them", 1)

    from benchmarks.gpu.plan import REHEARSAL, chosen
    from benchmarks.gpu.run import run_plan
    from benchmarks.gpu.summary import ENDED
    from recipe.errors import ConfigError
    from record.gpus import describe_gpus

    parser = argparse.ArgumentParser(prog="make gpu")
    parser.add_argument("--minutes", type=float, default=28, help="for all parts")
    parser.add_argument("--only", default="", help="parts, separated by commas")
    parser.add_argument("--folder", type=Path, help="instead of runs/gpu-<UTC time>")
    given = parser.parse_args(typed)
    try:
        parts = chosen([name for name in given.only.split(",") if name])
    except ConfigError as error:
        return refuse(str(error), 2)
    rehearsal = os.environ.get(REHEARSAL) == "1"
    found = (describe_gpus() or {}).get("gpus")
    if not rehearsal and not found:
        return refuse(
            "NVML finds no NVIDIA GPU on this machine, so nothing can be measured; "
            f"{REHEARSAL}=1 rehearses every part on the CPU, in tiny shapes",
            1,
        )
    if rehearsal:
        os.environ.update(ON_A_CPU)
    begin = datetime.now(UTC)
    name = f"gpu-{begin:%Y%m%d-%H%M%S}"
    folder = (given.folder or ROOT / "runs" / name).absolute()
    if folder.is_dir() and any(folder.iterdir()):
        return refuse(f"--folder {folder} is not empty; give a new one", 2)
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(parts)} parts, at most {given.minutes:g} minutes: {folder}", flush=True
    )

    asked: list[signal.Signals] = []
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(
                number, lambda number, _: asked.append(signal.Signals(number))
            )
    records = run_plan(
        parts,
        folder,
        60 * given.minutes,
        head([gpu["name"] for gpu in found or []], begin, rehearsal),
        lambda: signal.Signals(asked[0]).name if asked else None,
    )
    print(f"written: {folder / 'summary.md'}", flush=True)
    if asked:
        return 128 + asked[0]
    return int(any(record["state"] != ENDED for record in records))


def refuse(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def head(gpus: list[str], begin: datetime, rehearsal: bool) -> str:
    """The first lines of the summary: where, when, and by what."""
    from record.environment import git_state

    commit, dirty = git_state()
    where = " and ".join(sorted(set(gpus)))
    title = "# Rehearsal on a CPU" if rehearsal else f"# Measured on {where}"
    lines = [title, ""]
    if rehearsal:
        lines += [
            "Nothing here was measured on a GPU, and no speed means anything.",
            "",
        ]
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    changed = ", with local changes" if dirty else ""
    lines += [f"{begin:%Y-%m-%d %H:%M} UTC, commit {commit}{changed}: `{command}`"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
