"""Train one recipe in both frameworks and say whether it was the same run.

    python launch/parity.py experiment=digits_cnn world_sizes=[1,2] precision=fp64

Leaves parity.json, parity.png, index.html and every run in `run.dir`; exits 1 when a
bound is broken.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

# Python puts this file's folder first, where `jax.py` would hide the package JAX.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

from hydra.core.hydra_config import HydraConfig  # noqa: E402
from rich.box import SIMPLE_HEAD  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.table import Table  # noqa: E402

from launch.cli import ROOT, hydra_main, this_process  # noqa: E402
from launch.training import command, end, quoted, said  # noqa: E402
from recipe.config import ParityConfig, check_world  # noqa: E402
from recipe.errors import ConfigError, DuetError  # noqa: E402
from recipe.processes import Processes  # noqa: E402
from record.run import Run, check_folder, read_run  # noqa: E402
from report.page import write_parity_page  # noqa: E402
from report.parity import (  # noqa: E402
    BOUNDS,
    IDENTICAL,
    Verdict,
    compare,
    envelope,
)

# What parity decides for each training; the rest is handed on as it was typed.
OWN_KEYS = (
    *("world_sizes", "controls", "jax_layouts", "timeout_seconds"),
    *("run.dir", "train.steps", "train.evaluate_every_epochs", "parallel"),
    "data.root",
)


@dataclass(frozen=True)
class Training:
    """One run of the check, a process or several of their own."""

    framework: str
    world_size: int = 1
    processes: int = 1
    nudge: int = 0

    @property
    def label(self) -> str:
        """For people: "torch ×2", "jax ×2 (processes)", "jax control 1"."""
        if self.nudge:
            return f"{self.framework} control {self.nudge}"
        layout = (
            " (processes)" if self.framework == "jax" and self.processes > 1 else ""
        )
        return f"{self.framework} ×{self.world_size}{layout}"

    @property
    def folder(self) -> str:
        """For files: "jax-2-processes"."""
        if self.nudge:
            return f"{self.framework}-control-{self.nudge}"
        layout = "-processes" if self.framework == "jax" and self.processes > 1 else ""
        return f"{self.framework}-{self.world_size}{layout}"

    def command(
        self, config: ParityConfig, typed: list[str], run_dir: Path
    ) -> list[str]:
        """The command line that trains this, with what was typed for parity itself."""
        typed = [
            override
            for override in typed
            if override.lstrip("+").partition("=")[0] not in OWN_KEYS
        ]
        parallel = "dp" if self.framework == "torch" else config.parallel.name
        every = config.train.evaluate_every_epochs
        overrides = [
            *typed,
            f"train.steps={'null' if (n := config.train.steps) is None else n}",
            f"train.evaluate_every_epochs={every}",
            f"train.nudge={self.nudge}",
            f"parallel={parallel}",
            f"devices={self.world_size}",
            # Relative to where parity was started, which is not where this will be.
            f"data.root={quoted(Path(config.data.root).absolute())}",
            f"run.dir={quoted(run_dir)}",
        ]
        return command(self.framework, self.processes, overrides)


def trainings(config: ParityConfig) -> Iterator[Training]:
    """Every run of the check, those that others are held against first."""
    for world_size in sorted({1, *config.world_sizes}):
        yield Training("torch", world_size, world_size)
        if "devices" in config.jax_layouts or world_size == 1:
            yield Training("jax", world_size)
        if "processes" in config.jax_layouts and world_size > 1:
            yield Training("jax", world_size, world_size)
    if BOUNDS[config.precision.name].controls:
        for nudge in range(1, config.controls + 1):
            yield Training("torch", nudge=nudge)
            yield Training("jax", nudge=nudge)


def check_parity(config: ParityConfig) -> None:
    """Train, compare, print and write.

    Raises:
      ConfigError: before anything starts.
      SystemExit: 1 if a bound is broken.
    """
    for world_size in config.world_sizes:
        config.devices = world_size
        check_world(config, Processes())
    config.devices = None
    check_folder(config)
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = Path(config.run.dir or f"runs/parity-{config.name}-{now}").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir={folder} cannot be made: {error}") from error

    console = Console(highlight=False)
    typed = list(HydraConfig.get().overrides.task)
    todo = list(trainings(config))

    def trained(training: Training) -> Run:
        begin = time.perf_counter()
        run = train(training, config, typed, folder)
        seconds = time.perf_counter() - begin
        console.print(f"{training.label}  {seconds:.0f} s")
        return run

    console.print(f"{config.name}, {len(todo)} trainings:")
    runs = {t: trained(t) for t in todo if not t.nudge}
    # Nothing is timed here, and controls are many: two at once fill the cores that a
    # small model leaves idle.
    with ThreadPoolExecutor(max_workers=2) as pool:
        controls = [t for t in todo if t.nudge]
        try:
            runs |= zip(controls, pool.map(trained, controls), strict=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_trainings()
            raise

    verdict = judge(config, runs)
    command = [typed for typed in sys.argv if not typed.startswith("run.dir=")]
    page = write_parity_page(
        folder, verdict, {t.label: run for t, run in runs.items()}, command
    )
    show(verdict, console)
    console.print(f"page: {page}", soft_wrap=True, markup=False)
    if verdict.verdict != IDENTICAL:
        raise SystemExit(1)


def train(
    training: Training, config: ParityConfig, typed: list[str], folder: Path
) -> Run:
    """Run one training to its end and read its record.

    Raises:
      DuetError: if it failed, with the end of what it printed.
    """
    run_dir, log = folder / training.folder, folder / f"{training.folder}.log"
    # Loopback alone: these processes are all on this machine. And JAX is not to claim
    # a GPU's memory whole, since another control may be on it.
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment = {**os.environ, **loopback}
    with log.open("w") as output:
        process = subprocess.Popen(
            training.command(config, typed, run_dir),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that ranks end with what launched them
        )
        RUNNING.add(process)
        try:
            status = process.wait(config.timeout_seconds)
        except subprocess.TimeoutExpired:
            raise DuetError(
                f"{training.label} took more than {config.timeout_seconds} s; see "
                f"{log}, or raise timeout_seconds"
            ) from None
        finally:
            RUNNING.discard(process)
            end(process)
    if status:
        raise DuetError(f"{training.label} failed, see {log}:\n  {said(log)}")
    return read_run(run_dir)


RUNNING: set[subprocess.Popen[bytes]] = set()


def end_trainings() -> None:
    """End whatever is running, when parity itself is to end."""
    for process in list(RUNNING):
        end(process)


def judge(config: ParityConfig, runs: dict[Training, Run]) -> Verdict:
    """Frameworks against each other at every world size, worlds against their own 1."""
    ones = {name: runs[Training(name)] for name in ("torch", "jax")}
    pairs = [(run, ones[t.framework]) for t, run in runs.items() if t.nudge]
    control = envelope(pairs) if pairs else None
    comparisons = []
    for training, run in runs.items():
        mine = training.label, run
        if training.framework == "jax" and not training.nudge:
            size = training.world_size
            other = Training("torch", size, size)
            comparisons.append(
                compare(mine, (other.label, runs[other]), "frameworks", control)
            )
        if training.world_size > 1:
            one = Training(training.framework)
            comparisons.append(
                compare(mine, (one.label, runs[one]), "world sizes", control)
            )
    any_run = ones["torch"]
    return Verdict(
        experiment=config.name,
        precision=config.precision.name,
        config_hash=any_run.summary["config_hash"],
        data_fingerprint=any_run.summary["data_fingerprint"],
        comparisons=comparisons,
        control=control,
    )


def show(verdict: Verdict, console: Console) -> None:
    """The verdict as a table."""
    title = escape(f"{verdict.experiment} in {verdict.precision}, relative differences")
    table = Table(title=title, box=SIMPLE_HEAD)
    for column in ("run", "against"):
        table.add_column(column, no_wrap=True)
    for column in ("step 1", "worst step", "weights"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("verdict", no_wrap=True)
    for c in verdict.comparisons:
        table.add_row(
            c.a,
            c.b,
            f"{c.differences[0]:.1e}",
            f"{max(c.differences):.1e}",
            f"{c.leaves[c.worst_leaf]:.1e}",
            c.verdict,
        )
    # Figures are never cut: a narrower terminal folds the lines itself.
    wide = console.options.update(width=1000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
    for c in verdict.comparisons:
        for reason in c.broken:
            console.print(f"{c.a} against {c.b}: {reason}", markup=False)
    console.print(f"verdict: {verdict.verdict}, by {verdict.decided_by}")


def main() -> None:
    """Check what the command line asks for, in this one process."""
    processes = this_process()

    def alone(config: ParityConfig) -> None:
        if processes.launcher != "python":
            raise ConfigError(
                "parity starts its own processes; run it as python launch/parity.py, "
                "without torchrun or srun"
            )
        check_parity(config)

    rank = processes.rank
    hydra_main(alone, config_name="parity", schema=ParityConfig, rank=rank)


if __name__ == "__main__":
    # As an exception, so that trainings are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
