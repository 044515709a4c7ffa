"""Runs trainings as separate processes, to compare their records."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from launch.children import end, start
from launch.cli import say
from recipe.config import Config
from recipe.errors import ConfigError, DuetError
from recipe.parity import ParityConfig
from record.folder import check_folder
from record.run import Run, read_run
from runtime.processes import Processes
from runtime.sharding import check_shards
from runtime.world import check_world

SCRIPTS = {"torch": "launch/pytorch.py", "jax": "launch/jax.py"}
ERRORS = "error: ", "slurmstepd: error: ", "srun: error: "
# Keys that parity sets for each training; the others are passed on.
OWN_KEYS = (
    *("world_sizes", "controls", "jax_layouts", "timeout_seconds", "trace"),
    *("run.dir", "train.steps", "train.evaluate_every_epochs", "parallel"),
    *("data.root", "data.files", "model.folder", "model.weights"),
)

# Of trainings that nobody trains on: an optimizer's state is as large as the weights.
LEAVE_NO_STATE = "checkpoint.at_end=false"


def command(framework: str, processes: int, overrides: list[str]) -> list[str]:
    """The command line that trains, in as many processes on this machine."""
    return [*launcher(processes), SCRIPTS[framework], *overrides]


def launcher(processes: int) -> list[str]:
    """How a command line begins that starts so many processes on this machine."""
    if processes == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={processes}"]


def quoted(path: Path) -> str:
    """A path in Hydra's grammar, quoted if necessary."""
    if re.fullmatch(r"/[\w./-]*", str(path), re.ASCII):
        return str(path)
    return "'" + str(path).replace("'", "\\'") + "'"


def own_files(config: Config) -> list[str]:
    """Overrides for the user's files, with absolute paths."""
    places = {
        "data.files": config.data.files,
        "model.folder": config.model.folder,
        "model.weights": config.model.weights,
    }
    given = [(key, place) for key, place in places.items() if place is not None]
    return [f"{key}={quoted(Path(place).absolute())}" for key, place in given]


@dataclass(frozen=True)
class Training:
    """One run of the check, in one or several processes."""

    framework: str
    world_size: int = 1
    processes: int = 1
    perturb_seed: int = 0

    @property
    def label(self) -> str:
        """For people: "torch ×2", "jax ×2 (processes)", "jax control 1"."""
        if self.perturb_seed:
            return f"{self.framework} control {self.perturb_seed}"
        layout = (
            " (processes)" if self.framework == "jax" and self.processes > 1 else ""
        )
        return f"{self.framework} ×{self.world_size}{layout}"

    @property
    def folder(self) -> str:
        """For files: "jax-2-processes"."""
        if self.perturb_seed:
            return f"{self.framework}-control-{self.perturb_seed}"
        layout = "-processes" if self.framework == "jax" and self.processes > 1 else ""
        return f"{self.framework}-{self.world_size}{layout}"

    def command(
        self, config: ParityConfig, typed: list[str], run_dir: Path
    ) -> list[str]:
        """The command line of this training, with the overrides given to parity."""
        keys = {override: override.lstrip("+").partition("=")[0] for override in typed}
        parallel = [f"parallel={config.parallel.name}"]  # or the preset that was typed
        parallel += [override for override, key in keys.items() if key == "parallel"]
        typed = [override for override in typed if keys[override] not in OWN_KEYS]
        if config.parallel.name == "pmap" and self.framework == "torch":
            parallel = ["parallel=dp"]  # pmap is JAX's alone
        every = config.train.evaluate_every_epochs
        overrides = [
            LEAVE_NO_STATE,
            *typed,
            # Relative to where parity was started, which is not where this starts.
            *own_files(config),
            *([] if config.model.weights else ["model.weights=null"]),
            f"train.steps={'null' if (n := config.train.steps) is None else n}",
            f"train.trace={'null' if (n := config.train.trace) is None else n}",
            f"train.evaluate_every_epochs={every}",
            f"train.perturb_seed={self.perturb_seed}",
            parallel[-1],
            f"devices={self.world_size}",
            f"data.root={quoted(Path(config.data.root).absolute())}",
            f"run.dir={quoted(run_dir)}",
        ]
        return command(self.framework, self.processes, overrides)


def typed_keys() -> list[str]:
    """The command line's group=option and key=value, as parsed by Hydra."""
    return list(HydraConfig.get().overrides.task)


def check_sizes(config: ParityConfig) -> None:
    """Refuse world sizes with an invalid training.

    Raises:
      ConfigError: that the training would raise.
    """
    for world_size in config.world_sizes:
        config.devices = world_size
        check_world(config, Processes())
        check_shards(config, Processes())
    config.devices = None


def make_folder(config: ParityConfig, kind: str) -> Path:
    """The folder of a check: `run.dir`, or a new one under `runs/`.

    Raises:
      DuetError: if it is occupied, or cannot be made.
    """
    check_folder(config)
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = Path(config.run.dir or f"runs/{kind}-{config.name}-{now}").absolute()
    try:
        # Of two checks in one second, or in one folder, the first gets it.
        empty = folder.is_dir() and config.run.dir is not None
        folder.mkdir(parents=True, exist_ok=empty)
    except OSError as error:
        raise ConfigError(f"run.dir={folder} cannot be made: {error}") from error
    return folder


def train_at_once(
    todo: list[Training], train_one: Callable[[Training], Run]
) -> dict[Training, Run]:
    """Run several trainings, two at a time; if one fails, the others are ended.

    Nothing is timed: two at once fill the cores that a small model leaves idle.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        try:
            return dict(zip(todo, pool.map(train_one, todo), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_trainings()
            raise


def trainer(
    config: ParityConfig, folder: Path, console: Console
) -> Callable[[Training], Run]:
    """`train` for a check; prints each with the seconds that it took."""
    typed = typed_keys()

    def trained(training: Training) -> Run:
        begin = time.perf_counter()
        run = train(training, config, typed, folder)
        say(console, f"{training.label}  {time.perf_counter() - begin:.0f} s")
        return run

    return trained


def train(
    training: Training, config: ParityConfig, typed: list[str], folder: Path
) -> Run:
    """Run one training to its end and read its record.

    Raises:
      DuetError: if it failed, with the end of its output.
    """
    run_dir, log = folder / training.folder, folder / f"{training.folder}.log"
    # Loopback only, as all processes are on this machine. And JAX must not preallocate
    # a GPU, which another training may share.
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with log.open("w") as output:
        process = start(training.command(config, typed, run_dir), output, loopback)
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
        failure = DuetError(
            f"{training.label} failed, see {log}:\n  {last_errors(log)}"
        )
        failure.exit_status = 2 if status == 2 else 1
        raise failure
    return read_run(run_dir)


RUNNING: set[subprocess.Popen[bytes]] = set()


def last_errors(*logs: Path) -> str:
    """Why a training failed: its errors, else its last lines of output.

    Args:
      logs: the first that is not empty counts.
    """
    texts = [log.read_text(errors="replace") for log in logs if log.exists()]
    for lines in [text.splitlines() for text in texts if text.strip()]:
        errors = [line for line in lines if line.startswith(ERRORS)] or lines[-12:]
        return "\n  ".join(errors)
    return "it printed nothing"


def end_trainings() -> None:
    """End all running trainings."""
    for process in list(RUNNING):
        end(process)
