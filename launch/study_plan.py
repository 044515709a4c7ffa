"""What a study runs: its runs and parity checks, validated, with their commands.

From the config, the command line and the cores of a device; nothing here starts a
process or writes a file.
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
from launch.links import command as over_links
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
from recipe.strategies import checked_strategies, file_part, strategy_overrides
from recipe.study import (
    AXES,
    StudyConfig,
    StudyPlan,
    StudyRun,
    check_batch,
    check_sizes_of,
    compiled_parts,
    configurations,
    other_batches,
    study_runs,
    timing,
)
from recipe.training import TrainConfig
from record.weights import check_weights
from runtime.processes import Processes
from runtime.sharding import check_shards
from runtime.world import check_world

KINDS = ("gpu_type", "constraint")  # of its cluster, where they are requested
# Keys of a run that a study sets by other keys.
DECIDED = {
    "platform": "cluster.gpus_per_node decides; 0 is the CPU",
    "parallel.cores_per_device": "cluster.cores_per_device decides",
    "train.timed_seconds": "use study.timed_seconds=SECONDS; null is none",
    "profile": "a trace takes time; trace a single run instead",
}


@dataclass(frozen=True)
class Study:
    """A validated study.

    Args:
      recipe: overrides of every run and every parity check.
      train: of the recipe.
      data_root: absolute; not part of the study's identity.
      folder: absolute.
      cores: of each device.
      not_here: why it cannot run on this machine; a dry run may have one.
      started: whether the folder has it already.
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
    started: bool = False
    checked_at: dict[str, int] = field(default_factory=dict)

    @property
    def batches(self) -> list[str]:
        """Lines about parity checks whose batch differs from some run's."""
        return other_batches(self.plan, self.train.global_batch_size, self.checked_at)


def recipe_overrides(config: StudyConfig, typed: list[str]) -> list[str]:
    """The overrides of every run: the plan's recipe, then the command line.

    Raises:
      ConfigError: if a key was given that is an axis, or set by the study.
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
    # Relative to where the study was started, which is not where runs start.
    overrides += own_files(config)
    platform = "gpu" if config.cluster.gpus_per_node else "cpu"
    return [*overrides, f"platform={platform}"]


def composed(
    overrides: list[str], schema: type[Config], config_name: str = "config"
) -> Any:
    """The validated config of a run, or a parity check, with these overrides.

    Raises:
      ConfigError: that the run would raise.
    """
    ConfigStore.instance().store("schema", node=schema)
    try:
        config = compose(config_name, overrides)
    except HydraException as error:
        raise refusal(error, schema) from error
    return typed_config(config, schema)


def check_runs(plan: StudyPlan, recipe: list[str]) -> Config:
    """Refuse a plan with an invalid run; returns the recipe's config.

    Raises:
      ConfigError: naming the run.
    """
    if not configurations(plan):
        raise ConfigError("study.parallel=[pmap] is JAX's alone; add jax to framework")
    alone = composed(recipe, Config)
    if alone.data.name == "synthetic" and len(plan.data) > 1:
        raise ConfigError(
            f"study.data={plan.data}: the recipe's own data is synthetic already, so "
            "both are the same; leave study.data at [real], or take real data"
        )
    checked = set()  # frameworks have most of them in common, and Hydra takes its time
    for point in configurations(plan):
        try:
            own = _run_overrides(point, plan, alone.train)
            if tuple(own) in checked:
                continue
            checked.add(tuple(own))
            config = composed([*recipe, *own, *timing(plan)], Config)
            check_weights(config)
            check_world(config, Processes())
            check_shards(config, Processes())
        except ConfigError as error:
            raise ConfigError(f"run {point.configuration}: {error}") from error
    return alone


def check_parity(study: Study) -> dict[str, int]:
    """Refuse a parity check that is invalid or would give no verdict.

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
            raise ConfigError(f"run {work.name}: {error}") from error
        checked_at[work.name] = check.train.global_batch_size
    return checked_at


def _check_one(check: ParityConfig, cluster: ClusterConfig) -> None:
    if check.trace is not None or check.a is not None:
        raise ConfigError(
            "trace=, a= and b= give no verdict on the study's recipe; remove them from "
            "study.parity, and run parity.py with them"
        )
    fit, most = cluster.devices_per_node, max(check.world_sizes)
    if cluster.name == "slurm" and most > fit:
        raise ConfigError(
            f"world_sizes={check.world_sizes} of study.parity do not fit "
            f"one node of {fit} devices, where a check's processes all run"
        )
    check_sizes(check)


def works(study: Study) -> dict[str, Work]:
    """The parity checks, then the runs in order, by name."""
    ordered = [_work_of(study, run) for run in study_runs(study.plan)]
    return {work.name: work for work in [*_parity_checks(study), *ordered]}


def common_overrides(study: Study) -> list[str]:
    """Overrides of every run, but not of parity checks."""
    pinned = f"parallel.cores_per_device={study.cores}"
    asked = any(o.startswith("checkpoint.at_end=") for o in study.recipe)
    state = [] if asked else [LEAVE_NO_STATE]
    return [*_of_all(study), *timing(study.plan), pinned, *state]


def _of_all(study: Study) -> list[str]:
    # The same data wherever a run starts.
    return [*study.recipe, f"data.root={quoted(study.data_root)}"]


def _run_overrides(run: StudyRun, plan: StudyPlan, train: TrainConfig) -> list[str]:
    own = train.global_batch_size, plan.regime, train.grad_accum_steps
    seed = [f"train.seed={train.seed + run.repeat - 1}"] * plan.seeds
    return [*run.overrides(*own), *seed, *run.timed_alone(plan.rounds)]


def _work_of(study: Study, run: StudyRun) -> Work:
    size, folder = run.world_size, study.folder / run.name
    overrides = [
        *common_overrides(study),
        *_run_overrides(run, study.plan, study.train),
        f"run.dir={quoted(folder)}",
    ]
    started = command(run.framework, size, overrides)
    if (mbit := run.bandwidth_mbit) is not None:
        hosts = over_links(mbit, size, study.cores, folder)
        started = [*hosts, SCRIPTS[run.framework], *overrides]
    return Work(
        name=run.name,
        command=started,
        task=[sys.executable, SCRIPTS[run.framework], *overrides],
        devices=size,
        tasks=size,
        log=study.folder / f"{run.name}.log",
    )


def _parity_checks(study: Study) -> list[Work]:
    """One for each setting that may change the numbers."""
    plan = study.plan
    models, strategies = plan.model or [None], checked_strategies(plan.parallel)
    kinds = product(models, plan.precision, strategies, plan.compile)
    return [_parity(study, *kind) for kind in kinds]


def _parity(
    study: Study, model: str | None, precision: str, parallel: str, compiled: bool | str
) -> Work:
    """At the world sizes that fit a node, since parity starts its own processes."""
    plan, cluster, train = study.plan, study.cluster, study.train
    fit = cluster.devices_per_node if cluster.name == "slurm" else None
    sizes = check_sizes_of(plan, fit)
    batch = check_batch(plan, train.global_batch_size, train.grad_accum_steps, sizes)
    # The check's default number of steps, unless given: its bounds are for that many.
    own = ("steps=", "epochs=", "evaluate_every_epochs=", "global_batch_size=")
    own = tuple(f"train.{key}" for key in own)
    parts = [PARITY, *([model] if model else []), precision, file_part(parallel)]
    name = "-".join([*parts, *compiled_parts(compiled)])
    decided = [
        f"precision={precision}",
        *strategy_overrides(parallel),
        *([f"model={model}"] if model else []),
        *[f"compile={compiled}".lower()] * bool(compiled),
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
    """The content of study.json: its plan, the order of its runs, its machine."""
    plan, cluster = study.plan, study.cluster
    return {
        "schema_version": 2,
        "name": plan.name,
        "regime": plan.regime,
        "recipe": study.recipe,
        "parity": list(plan.parity),
        "order": [_described(run) for run in study_runs(plan)],
        "order_seed": plan.order_seed,
        "timed_seconds": plan.timed_seconds,
        "rounds": plan.rounds,
        "seeds": plan.seeds,
        "cluster": {
            "name": cluster.name,
            "gpus_per_node": cluster.gpus_per_node,
            "devices_per_node": cluster.devices_per_node,
            "cores_per_device": study.cores,
            "exclusive": cluster.exclusive,
            **{k: kind for k in KINDS if (kind := getattr(cluster, k)) is not None},
        },
    }


def _described(run: StudyRun) -> dict[str, Any]:
    """A run in study.json; links are named where there are any, as was always so."""
    axes = asdict(run)
    if run.bandwidth_mbit is None:
        del axes["bandwidth_mbit"]
    return axes | {"name": run.name}
