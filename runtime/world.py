"""The number of devices of a run, and what must divide over them."""

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.experiment import NORMALISED
from recipe.local_rounds import check_rounds
from recipe.own_model import check_own_model
from runtime.processes import Processes


def world_size(config: Config, processes: Processes) -> int:
    """Devices of the whole run: `devices`, else one for each process."""
    return processes.count if config.devices is None else config.devices


def check_world(config: Config, processes: Processes) -> None:
    """Refuse what does not divide, before any process group or file exists.

    Raises:
      ConfigError: quoting the numbers and the nearest valid ones.
    """
    check_own_model(config.model.folder)
    check_rounds(config)
    devices = world_size(config, processes)
    if config.train.trace and (devices > 1 or config.parallel.name != "dp"):
        raise ConfigError(
            f"train.trace={config.train.trace} works on one device under parallel=dp, "
            f"got {devices} under parallel={config.parallel.name}; leave both out"
        )
    if config.train.trace and config.train.grad_accum_steps > 1:
        raise ConfigError(
            f"train.trace={config.train.trace} records one whole batch, which "
            f"train.grad_accum_steps={config.train.grad_accum_steps} never computes at "
            "once; leave that out"
        )
    if devices % processes.count:
        raise ConfigError(
            f"devices={devices} does not divide over {processes.count} processes; "
            f"use a multiple of {processes.count}"
        )
    batch, parts = config.train.global_batch_size, config.train.grad_accum_steps
    share = devices * parts
    over = f" x train.grad_accum_steps={parts}" if parts > 1 else ""
    if batch % share:
        below, above = batch // share * share, -(-batch // share) * share
        nearest = f"nearest that do: {below}, {above}" if below else f"use {above}"
        raise ConfigError(
            f"train.global_batch_size={batch} does not divide over world_size={devices}"
            f"{over}; {nearest}"
        )
    norm = config.model.norm
    alone = batch // (parts if norm.sync else share) == 1
    if config.model.name in NORMALISED and norm.name == "batch" and alone:
        raise ConfigError(
            f"train.global_batch_size={batch} over world_size={devices}{over} "
            f"leaves batch normalisation with model.norm.sync={str(norm.sync).lower()} "
            "one example to take its statistics over; it needs two: use a larger "
            "train.global_batch_size, "
            + ("" if norm.sync else "model.norm.sync=true, ")
            + "or model.norm.name=group"
        )
