"""The whole schema of a recipe: what can be asked for, and what is refused.

Hydra composes `conf/` into these dataclasses, so a key that is not here, or a value of
another type, is refused by name before anything starts. Each group checks its own
fields, in `recipe/experiment.py`, `recipe/training.py`, `recipe/optimizers.py` and
`recipe/execution.py`; the comment at a field is its explanation in `docs/config.md`;
what spans several of them is in `Config.__post_init__`, and what also needs the number
of devices in `runtime/world.py`.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe.architecture import layers
from recipe.errors import ConfigError
from recipe.execution import (
    LOCAL_KEYS,
    CheckpointConfig,
    ParallelConfig,
    RunConfig,
    Strategy,
    TrackingConfig,
)
from recipe.experiment import (
    RESNET_STEMS,
    DataConfig,
    ModelConfig,
    TaskConfig,
    TunedConfig,
)
from recipe.fields import at_least, one_of
from recipe.optimizers import OptimConfig
from recipe.renamed import with_first_names, with_new_names
from recipe.training import PrecisionConfig, ScheduleConfig, TrainConfig

# Keys that hold names of the user's, such as prefixes, in place of keys of the schema.
NAMED_BY_USER = ("optim.lr_factors",)


@dataclass(kw_only=True)
class Config:
    """One run, whole."""

    name: str  # the experiment's name, which names the run in folders and trackers
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    precision: PrecisionConfig
    parallel: ParallelConfig
    tracking: TrackingConfig
    tuned: TunedConfig
    task: TaskConfig = field(default_factory=TaskConfig)
    train: TrainConfig
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    run: RunConfig
    devices: int | None = None  # of the whole run; `null`: one for each process
    # `auto` (a GPU where there is one, else the CPU), `cpu` or `gpu`.
    platform: str = "auto"
    # Only bitwise reproducible kernels; slower, and PyTorch refuses an operation that
    # has none.
    deterministic: bool = False
    # `true`: PyTorch compiles its model by torch.compile, before the first window; it
    # needs a C++ compiler. `max`: and replays it as CUDA graphs, on GPUs only. JAX's
    # steps are compiled whole whatever this says, and XLA makes such graphs by itself.
    compile: bool | str = False
    # What was compiled is kept on disk, for the next run of the same steps.
    compile_cache: bool = True
    # Each process traces the last window to `profile/rank<N>.json.gz`, for Perfetto;
    # that window is slower for it.
    profile: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]{1,60}", self.name) or self.name.startswith("."):
            raise ConfigError(
                f"name={self.name} must be 1 to 60 letters, digits, and _ . - "
                "since folders and trackers are named by it"
            )
        at_least("devices", self.devices, 1)
        one_of("platform", self.platform, ("auto", "cpu", "gpu"))
        if self.compile not in (True, False, "max"):
            raise ConfigError(
                f"compile={self.compile} is unknown; one of: true, false, max"
            )
        if self.train.label_smoothing and not self.data.classes:
            raise ConfigError(
                f"train.label_smoothing={self.train.label_smoothing} needs classes, "
                f"data={self.data.name} has none; set it to 0"
            )
        height, width, _ = self.data.image_shape
        if self.data.augment.cutout >= min(height, width):
            raise ConfigError(
                f"data.augment.cutout={self.data.augment.cutout} leaves nothing of "
                f"images of {height}x{width}; take less than {min(height, width)}"
            )
        layers(self.model, self.data)  # refuses what the architecture cannot take


def to_config(composed: DictConfig, schema: type[Config] = Config) -> Any:
    """The composed config as checked dataclasses.

    Raises:
      ConfigError: naming the key, what it was given, and what is allowed.
    """
    # Unresolved, since OmegaConf stops at the first reference to a missing value.
    missing = sorted(_missing(OmegaConf.to_container(composed)))
    if missing:
        raise ConfigError(
            f"the config leaves {', '.join(missing)} without a value; "
            "give it on the command line or choose an experiment that sets it"
        )
    try:
        config = OmegaConf.to_object(composed)
    except ConfigError:
        raise
    except OmegaConfBaseException as error:  # such as a reference to a missing key
        raise ConfigError(str(error).partition("\n")[0]) from error
    assert isinstance(config, schema)
    return config


def _missing(node: Any, key: str = "") -> list[str]:
    """Keys below a plain node that have no value."""
    if isinstance(node, dict):
        return [m for k, v in node.items() for m in _missing(v, f"{key}.{k}")]
    return [key.removeprefix(".")] if node == MISSING else []


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Every key of a dataclass of dataclasses: `train` and `train.steps`."""
    keys = []
    for name, kind in get_type_hints(schema).items():
        keys.append(f"{prefix}{name}")
        for part in get_args(kind) or (kind,):  # of a union, such as with None
            if is_dataclass(part):
                keys += known_keys(cast(type, part), f"{prefix}{name}.")
    return keys


def unknown_keys(composed: DictConfig, schema: type[Config]) -> list[str]:
    """Keys that the schema does not have, which `to_config` would drop."""
    known = set(known_keys(schema))

    def keys(node: Any, prefix: str = "") -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            yield f"{prefix}{key}"
            if f"{prefix}{key}" not in NAMED_BY_USER:
                yield from keys(value, f"{prefix}{key}.")

    return [key for key in keys(OmegaConf.to_container(composed)) if key not in known]


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of every leaf of a nested dictionary: `train.steps`, 100."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_yaml(config: Config) -> str:
    """The resolved config, as `config.yaml` in the run folder holds it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(text: str) -> Config:
    """The inverse of `to_yaml`, checked again; also reads the old names of keys.

    Raises:
      ConfigError: if the text is not YAML, or not a config of this schema; or has
        references, as a foreign file must not read our environment's secrets.
    """
    try:
        given = OmegaConf.create(text)
        held = OmegaConf.to_container(given)
        if "${" in str(held):
            raise ConfigError("a recorded config holds values, and no ${references}")
        if isinstance(held, dict):
            given = OmegaConf.create(with_new_names(cast(dict[str, Any], held)))
        merged = OmegaConf.merge(OmegaConf.structured(Config), given)
        assert isinstance(merged, DictConfig)  # of a dataclass and whatever merged
        return to_config(merged)
    except ConfigError:
        raise
    # YAML's constructors raise errors of many classes for malformed text.
    except (
        OmegaConfBaseException,
        YAMLError,
        AssertionError,
        OverflowError,
        RecursionError,
        ValueError,
    ) as error:
        raise ConfigError(str(error) or "not a mapping of keys to values") from error


def recipe_hash(config: Config) -> str:
    """SHA-256 of what makes two runs the same experiment, `recipe_parts`.

    It uses the original names of keys, so that an experiment keeps its hash when a key
    is renamed.
    """
    parts = json.dumps(with_first_names(recipe_parts(config)), sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def recipe_parts(config: Config) -> dict[str, Any]:
    """What makes two runs the same experiment, nested as the config is.

    Where a run happens does not count: devices, platform, kernels, parallel strategy,
    trackers, folders. Nor do the measuring window, a control's `perturb_seed` and what
    is traced. Local SGD does: its replicas see other gradients, as its number of
    devices says, which the record has beside the recipe.
    """
    recipe = asdict(config)
    strategy = recipe["parallel"]
    del (
        recipe["tuned"],
        recipe["task"],
    )  # the values taken from them are in other groups
    for place in (
        "devices",
        "platform",
        "deterministic",
        "compile",
        "compile_cache",
        "parallel",
        "tracking",
        "checkpoint",
        "run",
        "profile",
    ):
        del recipe[place]
    # Nor the source of the data: the record has its fingerprint.
    del recipe["data"]["root"], recipe["data"]["source"], recipe["data"]["files"]
    if config.model.folder is not None:
        recipe["model"]["folder"] = Path(config.model.folder).name
    # Nor what classes are called; and how files become arrays only where they do.
    del recipe["data"]["class_names"]
    if config.data.name != "folder":
        for key in ("resize", "test_fraction", "split_seed"):
            del recipe["data"][key]
    # A key that was added later does not change earlier hashes.
    if config.model.stem == RESNET_STEMS.get(config.model.name):
        del recipe["model"]["stem"]
    if not config.model.dropout:
        del recipe["model"]["dropout"]
    if config.optim.ema_decay is None:
        del recipe["optim"]["ema_decay"]
    if config.model.head is None:
        del recipe["model"]["head"]
    if not config.train.freeze:
        del recipe["train"]["freeze"]
    if config.optim.lr_factors is None:
        del recipe["optim"]["lr_factors"]
    if not config.data.label_offset:
        del recipe["data"]["label_offset"]
    for look in ("log_every_steps", "timed_seconds", "perturb_seed", "trace"):
        del recipe["train"][look]
    del recipe["optim"]["update"]
    if config.parallel.name == Strategy.LOCAL_SGD:
        recipe["parallel"] = {key: strategy[key] for key in ("name", *LOCAL_KEYS)}
    for key in ablated(config):  # then it is not a training
        group, name = key.split(".")
        recipe.setdefault(group, {})[name] = False
    return recipe


def ablated(config: Config) -> list[str]:
    """Keys of the parts of a step that are omitted, to measure the time that they take.

    A run without one of these parts is not a training.
    """
    parts = {
        "parallel.grad_sync": config.parallel.grad_sync,
        "optim.update": config.optim.update,
    }
    return [key for key, kept in parts.items() if not kept]


def identity_parts(config: Config) -> dict[str, Any]:
    """What a resumed run must have in common with the one it continues, nested by key.

    The recipe, and `train.perturb_seed`, which a hash of recipes does not include.
    """
    parts = recipe_parts(config)
    parts["train"] = {**parts["train"], "perturb_seed": config.train.perturb_seed}
    return parts
