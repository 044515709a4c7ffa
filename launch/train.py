"""From the command line to a twin's `run`, for both training scripts."""

import os
from collections.abc import Callable
from pathlib import Path

from data.folder import class_names
from launch.cli import hydra_main, this_process
from recipe.config import Config
from recipe.errors import StoppedError
from record.folder import folder_of_launch
from record.resume import resume_point
from record.stopping import STOP
from record.weights import check_weights
from runtime.heartbeat import Heartbeat
from runtime.processes import Processes, cores_of
from runtime.signals import Stopping
from runtime.world import check_world, world_size

Check = Callable[[Config, Processes], None]
Run = Callable[[Config, Processes, Stopping, Heartbeat], object]


def main(
    framework: str, twin: Callable[[], tuple[Check, Run]], stopping: Stopping
) -> None:
    """Validate everything, then train.

    Args:
      framework: "torch" or "jax".
      twin: imports a framework's `check` and `run`; called after the config is
        validated, since the import takes seconds.
      stopping: entered; a stop takes effect where all processes synchronise.
    """
    processes = this_process()

    def train(config: Config) -> None:
        check_world(config, processes)
        named = config.run.dir or config.run.resume not in ("auto", "never")
        if processes.restarts and processes.rank == 0 and not named:
            config.run.dir = str(folder_of_launch(config, framework, processes))
        if config.run.dir is not None:
            stopping.watch(Path(config.run.dir) / STOP)
        resume_point(config, None, world_size(config, processes), whole=False)
        check_weights(config)
        config.data.class_names = class_names(config.data)  # for the record
        keep_to_cores(config, processes)
        with Heartbeat(processes, config.parallel) as heartbeat:
            check, run = twin()
            check(config, processes)
            try:
                run(config, processes, stopping, heartbeat)
            except StoppedError as error:
                if processes.restarts:  # else torchrun would restart it at once
                    error.exit_status = 0
                raise

    hydra_main(train, config_name="config", schema=Config, rank=processes.rank)


def keep_to_cores(config: Config, processes: Processes) -> None:
    """Pin this process to cores, with as many threads, if the config asks for it.

    Called before a framework is imported, whose threads then stay on these cores:
    PyTorch takes their number from OpenMP's variable, XLA from its own. A binding by
    srun is kept.

    Raises:
      ConfigError: if there are too few.
    """
    count = config.parallel.cores_per_device
    if count is None:
        return
    count *= world_size(config, processes) // processes.count
    os.environ["OMP_NUM_THREADS"] = str(count)
    # XLA's thread that waits for other ranks computes nothing meanwhile, so it gets one
    # more if there are any: 4,600 images/s in place of 2,900 (digits_cnn, two ranks of
    # a core each). For a single rank one more costs a tenth.
    os.environ["NPROC"] = str(count + (processes.count > 1))
    if hasattr(os, "sched_setaffinity") and processes.launcher != "slurm":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores_of(cores, processes.local_rank, count))


if __name__ == "__main__":
    raise SystemExit(
        "error: start launch/pytorch.py or launch/jax.py, which share this"
    )
