"""What the scripts share: Hydra around a task, and how a run says that it went wrong.

Exit status: 0 done; 1 the run itself failed (its loss diverged, a bug); 2 it was asked
for something that cannot be done, and the one line on stderr says what to do instead.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from recipe.config import Config, to_config
from recipe.errors import ConfigError, DuetError

ROOT = Path(__file__).resolve().parent.parent


def hydra_main(
    task: Callable[[Any], None], *, config_name: str, schema: type[Config], rank: int
) -> None:
    """Compose `conf/<config_name>.yaml` with the command line and hand it to the task.

    Args:
      task: takes the typed, checked config.
      schema: the config's dataclass.
      rank: of this process; what concerns the whole run is said by rank 0 alone.

    Raises:
      SystemExit: as the module's docstring says.
    """
    ConfigStore.instance().store("schema", node=schema)
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack × or –
    composed = False
    silence = contextlib.ExitStack()  # while Hydra would say the same on every rank

    def checked_task(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        silence.close()
        try:
            _refuse_multirun(HydraConfig.get().mode == RunMode.MULTIRUN)
            task(to_config(config, schema))
        except DuetError as error:
            leave(error, rank)

    try:
        _refuse_multirun(bool({"-m", "--multirun"} & set(sys.argv[1:])))
        if rank != 0:
            silence.enter_context(contextlib.redirect_stderr(StringIO()))
        hydra.main(
            version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name
        )(checked_task)()
    except DuetError as error:
        leave(error, rank)
    except SystemExit as leaving:
        # Hydra has printed what was wrong with the command line, and leaves with 1.
        status = 2 if leaving.code == 1 and not composed else leaving.code
        raise SystemExit(status) from None


def _refuse_multirun(asked: bool) -> None:
    if asked:
        raise ConfigError(
            "-m (--multirun) would run every job in this one process, which holds "
            "one framework, one set of devices and one process group; start a process "
            "per job instead: "
            "for seed in 0 1 2; do python launch/jax.py train.seed=$seed; done"
        )


def leave(error: DuetError, rank: int) -> NoReturn:
    """Say what was wrong, once for all ranks, and exit with its status."""
    if rank == 0 or error.of_one_rank:
        place = f"rank {rank}: " if error.of_one_rank else ""
        print(f"error: {place}{error}", file=sys.stderr)
    else:
        # torchrun ends every rank when one leaves, and rank 0 is to speak first.
        time.sleep(3)
    raise SystemExit(error.exit_status)
