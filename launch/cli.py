"""Common to the scripts: Hydra around a task, output, and exit statuses.

Exit status: 0 done; 1 the run itself failed (its loss diverged, a bug); 2 the request
was invalid, and one line on stderr says what to do instead; 75 it was asked to stop,
and has saved what it needs to resume; 130 the same by Ctrl-C.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from io import StringIO, TextIOWrapper
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from launch.overrides import ROOT, checked, meaning, refusal, typed_config
from recipe.config import Config
from recipe.errors import ConfigError, DuetError, RecordError, StoppedError
from record.tracking import check_tracking
from runtime.processes import Processes, from_environment

# With these W&B would take all the runs that a script starts for the same run.
ONE_RUNS = ("WANDB_RUN_ID", "WANDB_NAME")


def hydra_main(
    task: Callable[[Any], None], *, config_name: str, schema: type[Config], rank: int
) -> None:
    """Compose `conf/<config_name>.yaml` with the command line and hand it to the task.

    Args:
      task: takes the typed, checked config.
      schema: the config's dataclass.
      rank: of this process; errors of the whole run are printed by rank 0 alone.

    Raises:
      SystemExit: as the module's docstring says.
    """
    ConfigStore.instance().store("schema", node=schema)
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack × or –
    # Else Hydra prints several lines and exits by itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    silence = contextlib.ExitStack()  # while Hydra would print it on every rank

    def checked_task(config: DictConfig) -> None:
        silence.close()
        try:
            given = typed_config(config, schema)
            check_tracking(given)
            task(given)
        except DuetError as error:  # here, since Hydra prints errors that leave a task
            leave(error, rank)

    try:
        sys.argv[1:] = checked(sys.argv[1:], schema)
        if rank != 0:
            silence.enter_context(contextlib.redirect_stderr(StringIO()))
        hydra.main(
            version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name
        )(checked_task)()
    except DuetError as error:
        leave(error, rank)
    except HydraException as error:
        leave(refusal(error, schema), rank)
    except (AssertionError, AttributeError, OverflowError) as error:
        meant = meaning(error, sys.argv[1:])
        if meant is None:
            raise
        leave(meant, rank)
    except KeyboardInterrupt:
        if rank == 0:
            print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def alone_main(
    task: Callable[[Any], None], *, config_name: str, schema: type[Config]
) -> None:
    """`hydra_main` for a script that is one process and starts others.

    SIGTERM, SIGHUP and SIGINT become exceptions, so that it ends what it started.

    Args:
      task: raises an OSError if its folder cannot be written.
      config_name: also the script's name.
    """
    processes = this_process()

    def alone(config: Config) -> None:
        if processes.launcher != "python":
            raise ConfigError(
                f"{config_name} starts its own processes; run it as "
                f"python launch/{config_name}.py, without torchrun or srun"
            )
        try:
            task(config)
        except OSError as error:
            place = error.filename or config.run.dir or "runs"
            raise RecordError(f"{place}: {error.strerror or error}") from error

    end_by_exception()
    for name in ONE_RUNS:
        os.environ.pop(name, None)
    # A shell's background jobs ignore SIGINT, and so would processes that they start,
    # which submitit ends by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hydra_main(alone, config_name=config_name, schema=schema, rank=processes.rank)


def plain_main(task: Callable[[list[str]], None]) -> None:
    """A script without Hydra: the task takes the arguments, a DuetError ends it."""
    try:
        task(sys.argv[1:])
    except DuetError as error:
        leave(error, rank=0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def end_by_exception() -> None:
    """Turn SIGTERM, and SIGHUP except under nohup, into an exception."""
    for number in signal.SIGTERM, signal.SIGHUP:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def print_whole(table: Table, console: Console) -> None:
    """Numbers are never truncated: a narrower terminal wraps the lines."""
    wide = console.options.update(width=1000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


def say(console: Console, text: str) -> None:
    """Print a line without markup, wrapped by the terminal alone."""
    console.print(text, markup=False, soft_wrap=True)


def this_process() -> Processes:
    """This process's rank, or exit with an error about its launcher's variables."""
    try:
        return from_environment(os.environ)
    except DuetError as error:
        leave(error, rank=0)  # since the rank is unknown


def leave(error: DuetError, rank: int) -> NoReturn:
    """Print the error, once for all ranks, and exit with its status."""
    if rank == 0 or error.of_one_rank:
        place = f"rank {rank}: " if error.of_one_rank else ""
        word = "stopped" if isinstance(error, StoppedError) else "error"
        with contextlib.suppress(OSError):  # of a closed terminal
            print(f"{word}: {place}{error}", file=sys.stderr)
    else:
        # torchrun ends all ranks when one exits, and rank 0 has to print first.
        time.sleep(3)
    raise SystemExit(error.exit_status)
