"""Training's way from the command line to a twin's `run`; both scripts go it."""

from collections.abc import Callable

from launch.cli import hydra_main, this_process
from recipe.config import Config, check_world
from recipe.processes import Processes
from record.run import check_folder
from record.weights import check_weights

Check = Callable[[Config, Processes], None]
Run = Callable[[Config, Processes], object]


def main(twin: Callable[[], tuple[Check, Run]]) -> None:
    """Check all that can be checked, then train.

    Args:
      twin: imports a framework's `check` and `run`; called after the config is known to
        be good, since an import takes seconds and a wrong key none.
    """
    processes = this_process()

    def train(config: Config) -> None:
        check_world(config, processes)
        check_folder(config)
        check_weights(config)
        check, run = twin()
        check(config, processes)
        run(config, processes)

    hydra_main(train, config_name="config", schema=Config, rank=processes.rank)
