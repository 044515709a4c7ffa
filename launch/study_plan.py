"""What a study runs: its cells and parity checks, each checked and made a command.

From the config, what was typed and the cores of a device; nothing here starts a process
or writes a file.
"""

import sys
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException

from launch.cluster import Work
from launch.cost import PARITY
from launch.overrides import refusal, typed_config
from launch.trainings import (
    LEAVE_NO_STATE,
    SCRIPTS,
    check_sizes,
    command,
    own_files,
    quoted,
)
from recipe.cluster import ClusterConfig
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.parity import ParityConfig
from recipe.study import (
    AXES,
    Cell,
    StudyConfig,
    StudyPlan,
    cells,
    check_batch,
    check_sizes_of,
    other_batches,
    points,
    timing,
)
from recipe.training import TrainConfig
from record.weights import check_weights
from runtime.processes import Processes
from runtime.sharding import check_shards
from runtime.world import check_world

KINDS = ("gpu_type", "constraint")  # of its cluster, where they are asked for
# Keys of a run that are not the recipe's in a study, and what to do instead.
DECIDED = {
    "platform": "cluster.gpus_per_node decides; 0 is the CPU",
    "parallel.cores_per_device": "cluster.cores_per_device decides",
    "train.timed_seconds": "each cell has study.timed_seconds=SECONDS; null is none",
    "profile": "a trace takes time; take one of a run alone",
}


@dataclass(frozen=True)
class Study:
    """A study that has passed every check.

    Args:
      recipe: overrides that every cell and every parity check is given.
      train: the recipe's own.
      data_root: absolute; no part of what makes a study that study.
      folder: absolute.
      cores: of each device.
      not_here: why it cannot run on this machine; a plan on paper may.
      begun: whether the folder holds it already.
      checked_at: global batch of each parity check, by name.
    """

    plan: StudyPlan
    cluster: ClusterConfig
    recipe: list[str]
    train: TrainConfig
    data_root: Path
    folder: Path
    cores: int
    not_here: str = ""
    begun: bool = False
    checked_at: dict[str, int] = field(default_factory=dict)

    @property
    def batches(self) -> list[str]:
        """Parity checks whose batch is not that of every cell, a line each."""
        return other_batches(self.plan, self.train.global_batch_size, self.checked_at)


def recipe_overrides(config: StudyConfig, typed: list[str]) -> list[str]:
    """What every cell is asked for: the plan's recipe, then what was typed for it.

    Raises:
      ConfigError: if a key was typed that is an axis, or each cell's own.
    """
    overrides = list(config.study.recipe)
    for given in typed:
        key = given.lstrip("+").partition("=")[0]
        axis = next((axis for axis, of in AXES.items() if of == key), None)
        if axis and getattr(config.study, axis):
            raise ConfigError(
                f"{given}: that is an axis of the study; write study.{axis}=[...]"
            )
        if key in DECIDED:
            raise ConfigError(f"{given}: {DECIDED[key]}")
        own = ("study", "cluster", "dry_run", "run")
        if key.partition(".")[0] not in own and key != "data.root":
            overrides.append(given)
    # Relative to where the study was started, which is not where a cell will be.
    overrides += own_files(config)
    platform = "gpu" if config.cluster.gpus_per_node else "cpu"
    return [*overrides, f"platform={platform}"]


def composed(
    overrides: list[str], schema: type[Config], config_name: str = "config"
) -> Any:
    """The config that a run, or a parity check, with these overrides has, checked.

    Raises:
      ConfigError: what the run would be refused with.
    """
    ConfigStore.instance().store("schema", node=schema)
    try:
        config = compose(config_name, overrides)
    except HydraException as error:
        raise refusal(error, schema) from error
    return typed_config(config, schema)


def check_cells(plan: StudyPlan, recipe: list[str]) -> Config:
    """Refuse a plan of which any cell would be refused; the recipe's own config.

    Raises:
      ConfigError: naming the cell.
    """
    if not points(plan):
        raise ConfigError("study.parallel=[pmap] is JAX's alone; add jax to framework")
    alone = composed(recipe, Config)
    if alone.data.name == "synthetic" and len(plan.data) > 1:
        raise ConfigError(
            f"study.data={plan.data}: the recipe's own data is synthetic already, so "
            "both are the same; leave study.data at [real], or take real data"
        )
    for point in points(plan):
        try:
            own = _of_cell(point, plan, alone.train)
            config = composed([*recipe, *own, *timing(plan)], Config)
            check_weights(config)
            check_world(config, Processes())
            check_shards(config, Processes())
        except ConfigError as error:
            raise ConfigError(f"cell {point.point}: {error}") from error
    return alone


def check_parity(study: Study) -> dict[str, int]:
    """Refuse a parity check that would be refused, or leave no verdict.

    Returns:
      The global batch of each, by name.

    Raises:
      ConfigError: naming it.
    """
    checked_at = {}
    for work in _parity_checks(study):
        _, _, *overrides = work.command
        try:
            check = composed(overrides, ParityConfig, "parity")
            _check_one(check, study.cluster)
        except ConfigError as error:
            raise ConfigError(f"cell {work.name}: {error}") from error
        checked_at[work.name] = check.train.global_batch_size
    return checked_at


def _check_one(check: ParityConfig, cluster: ClusterConfig) -> None:
    if check.trace is not None or check.a is not None:
        raise ConfigError(
            "trace=, a= and b= leave no verdict on the study's recipe; "
            "take them out of study.parity, and give them to parity.py"
        )
    fit, most = cluster.devices_per_node, max(check.world_sizes)
    if cluster.name == "slurm" and most > fit:
        raise ConfigError(
            f"world_sizes={check.world_sizes} of study.parity do not fit "
            f"one node of {fit} devices, where a check's processes all run"
        )
    check_sizes(check)


def works(study: Study) -> dict[str, Work]:
    """The parity checks, then the cells in their order, by name."""
    ordered = [_cell(study, cell) for cell in cells(study.plan)]
    return {work.name: work for work in [*_parity_checks(study), *ordered]}


def of_every_cell(study: Study) -> list[str]:
    """Overrides that every cell is given, and no parity check is."""
    pinned = f"parallel.cores_per_device={study.cores}"
    asked = any(o.startswith("checkpoint.at_end=") for o in study.recipe)
    state = [] if asked else [LEAVE_NO_STATE]
    return [*_of_all(study), *timing(study.plan), pinned, *state]


def _of_all(study: Study) -> list[str]:
    # The same data wherever a cell starts.
    return [*study.recipe, f"data.root={quoted(study.data_root)}"]


def _of_cell(cell: Cell, plan: StudyPlan, train: TrainConfig) -> list[str]:
    return cell.overrides(train.global_batch_size, plan.regime, train.grad_accum_steps)


def _cell(study: Study, cell: Cell) -> Work:
    size = cell.world_size
    overrides = [
        *of_every_cell(study),
        *_of_cell(cell, study.plan, study.train),
        f"run.dir={quoted(study.folder / cell.name)}",
    ]
    return Work(
        name=cell.name,
        command=command(cell.framework, size, overrides),
        task=[sys.executable, SCRIPTS[cell.framework], *overrides],
        devices=size,
        tasks=size,
        log=study.folder / f"{cell.name}.log",
    )


def _parity_checks(study: Study) -> list[Work]:
    """One for whatever may change the numbers."""
    plan = study.plan
    kinds = product(plan.model or [None], plan.precision, plan.parallel, plan.compile)
    return [_parity(study, *kind) for kind in kinds]


def _parity(
    study: Study, model: str | None, precision: str, parallel: str, compiled: bool
) -> Work:
    """Of what fits one node, since parity starts its own processes."""
    plan, cluster, train = study.plan, study.cluster, study.train
    fit = cluster.devices_per_node if cluster.name == "slurm" else None
    sizes = check_sizes_of(plan, fit)
    batch = check_batch(plan, train.global_batch_size, train.grad_accum_steps, sizes)
    # Its own number of steps, unless it is given: its bounds are for that many.
    own = ("steps=", "epochs=", "evaluate_every_epochs=", "global_batch_size=")
    own = tuple(f"train.{key}" for key in own)
    parts = [PARITY, *([model] if model else []), precision, parallel]
    name = "-".join([*parts, *["compiled"] * compiled])
    decided = [
        f"precision={precision}",
        f"parallel={parallel}",
        *([f"model={model}"] if model else []),
        *["compile=true"] * compiled,
        f"train.global_batch_size={batch}",
        f"world_sizes={sizes}".replace(" ", ""),
        "jax_layouts=[processes]",
    ]
    asked = {o.lstrip("+").partition("=")[0] for o in plan.parity}
    check = [
        *(sys.executable, "launch/parity.py"),
        *(o for o in _of_all(study) if not o.startswith(own)),
        *(o for o in decided if o.partition("=")[0] not in asked),
        *plan.parity,
        f"run.dir={quoted(study.folder / name)}",
    ]
    log, devices = study.folder / f"{name}.log", max(sizes, default=1)
    return Work(name, check, check, devices=devices, tasks=1, log=log)


def description(study: Study) -> dict[str, Any]:
    """What study.json says of it: its plan, the order of its cells, its machine."""
    plan, cluster = study.plan, study.cluster
    return {
        "schema_version": 2,
        "name": plan.name,
        "regime": plan.regime,
        "recipe": study.recipe,
        "parity": list(plan.parity),
        "order": [asdict(cell) | {"name": cell.name} for cell in cells(plan)],
        "order_seed": plan.order_seed,
        "timed_seconds": plan.timed_seconds,
        "cluster": {
            "name": cluster.name,
            "gpus_per_node": cluster.gpus_per_node,
            "devices_per_node": cluster.devices_per_node,
            "cores_per_device": study.cores,
            "exclusive": cluster.exclusive,
            **{k: kind for k in KINDS if (kind := getattr(cluster, k)) is not None},
        },
    }
