"""A config is complete and checked, or refused with what to write instead."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hydra.errors import HydraException

from recipe.config import (
    Config,
    from_yaml,
    recipe_hash,
    recipe_parts,
    to_config,
    to_yaml,
)
from recipe.errors import ConfigError
from recipe.execution import TRACKERS, RunConfig, Strategy
from recipe.experiment import DATASETS, MODELS
from recipe.optimizers import OPTIMIZERS
from recipe.parity import ParityConfig
from recipe.training import PRECISIONS, SCHEDULES
from runtime.processes import Processes
from runtime.world import check_world

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
GROUPS = {
    "data": DATASETS,
    "model": MODELS,
    "optim": tuple(OPTIMIZERS),
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "parallel": tuple(Strategy),
    "tracking": TRACKERS,
}
PRESETS = {"diloco"}  # options that set values of another one

# What is typed, then what the answer must hold: the key, the value, what is allowed.
BAD = [
    ("data.name=cifar", "data.name=cifar", "digits, fashion_mnist"),
    ("data.source=hub", "data.source=hub", "tfds, torchvision"),
    ("data.image_shape=[28,28]", "data.image_shape", "[28, 28]", "width, channels]"),
    ("data.image_shape=[0,28,1]", "data.image_shape", "[0, 28, 1]", "at least 1"),
    ("data.mean=[0.1,0.2]", "data.mean", "[0.1, 0.2]", "each of 1 channels"),
    ("data.std=[]", "data.std", "[]", "each of 1 channels"),
    ("data.std=[0.0]", "data.std", "[0.0]", "> 0"),
    ("data.classes=-1", "data.classes", "-1", "at least 0"),
    ("data.train_examples=0", "data.train_examples", "got 0", "at least 1"),
    ("data.test_examples=0", "data.test_examples", "got 0", "at least 1"),
    ("data.noise=-0.5", "data.noise", "-0.5", "at least 0"),
    ("model.name=resnet", "model.name=resnet", "cnn, custom, linear, mlp"),
    ("model=mlp model.channels=[8]", "model.channels", "[8]", "must be empty"),
    ("model=cnn model.channels=[8]", "model.channels", "[8]", "two positive"),
    ("model=cnn model.channels=[8,0]", "model.channels", "[8, 0]", "positive"),
    ("model=mlp model.hidden=[0]", "model.hidden", "[0]", "positive widths"),
    ("model=linear model.hidden=[9]", "model.hidden", "[9]", "empty"),
    ("model=cnn data.image_shape=[28,15,1]", "data.image_shape", "28x15", "16x16"),
    ("model.norm.name=instance", "model.norm.name=instance", "batch, group, layer"),
    ("model.norm.momentum=0", "model.norm.momentum", "got 0", "(0, 1]"),
    ("model.norm.eps=0", "model.norm.eps", "got 0", "> 0"),
    (
        "model=resnet18 model.norm.name=group model.norm.groups=24",
        *("model.norm.groups=24", "64 channels of stem.norm", "divisor of 64"),
    ),
    ("model=mlp model.width=0.5", "model.width=0.5", "resnet9", "model.hidden"),
    (
        "model=mlp model.zero_init_residual=true",
        "zero_init_residual",
        "resnet50",
        "mlp",
    ),
    ("model=mlp model.stem=imagenet", "model.stem=imagenet", "resnet18", "mlp"),
    ("model=resnet18 model.stem=large", "model.stem=large", "cifar, imagenet"),
    ("model=mlp model.dropout=1", "model.dropout", "got 1", "[0, 1)"),
    ("model=mlp model.dropout=-0.1", "model.dropout", "got -0.1", "[0, 1)"),
    ("model=mlp model.dropout=nan", "model.dropout", "got nan", "[0, 1)"),
    (
        "model=resnet9 model.dropout=0.1",
        *("model.dropout=0.1", "cnn, mlp, vit_tiny", "resnet9 has none"),
    ),
    (
        "model=custom model.dropout=0.1",
        "model.dropout=0.1",
        "custom model's rates are in",
    ),
    ("model=mlp model.hidden=[] model.dropout=0.1", "hidden layers", "model.hidden"),
    ("model=resnet9 model.width=0", "model.width", "got 0", "> 0"),
    ("model=resnet9 data.image_shape=[7,9,1]", "model=resnet9", "7x9", "8x8"),
    ("model=vit_tiny model.patch=5", "model.patch=5", "28x28", "divisor"),
    ("model=vit_tiny model.norm.name=batch", "norm.name=layer", "got batch"),
    ("optim.name=lion", "optim.name=lion", "sgd"),
    ("optim.peak_lr=0", "optim.peak_lr", "got 0", "> 0"),
    ("optim.peak_lr=nan", "optim.peak_lr", "got nan", "> 0"),
    ("optim.momentum=1.0", "optim.momentum", "got 1.0", "[0, 1)"),
    ("optim.momentum=-0.1", "optim.momentum", "got -0.1", "[0, 1)"),
    ("optim.momentum=0", "optim.nesterov=true", "got 0", "momentum > 0"),
    ("optim.weight_decay=-1", "optim.weight_decay", "-1", "at least 0"),
    ("optim.ema_decay=1.0", "optim.ema_decay", "got 1.0", "(0, 1)", "null"),
    ("optim.ema_decay=0.0", "optim.ema_decay", "got 0.0", "(0, 1)", "null"),
    ("optim.ema_decay=.nan", "optim.ema_decay", "got nan", "(0, 1)", "null"),
    ("optim.decay=biases", "optim.decay=biases", "all, kernels"),
    ("schedule.name=linear", "schedule.name=linear", "constant, cosine"),
    ("schedule.warmup_steps=-1", "schedule.warmup_steps", "-1", "at least 0"),
    ("schedule.end_factor=1.5", "schedule.end_factor", "1.5", "[0, 1]"),
    ("precision.name=fp8", "precision=fp8", "bf16, fp16, fp32, fp64, tf32"),
    ("parallel.name=mpi", "parallel=mpi", "dp, fsdp, local_sgd, pmap"),
    ("compile=graphs", "compile=graphs", "true, false, max"),
    ("train.grad_accum_steps=0", "train.grad_accum_steps", "got 0", "at least 1"),
    *(
        (f"precision=fp16 precision.loss_scale.{key}={value}", key, f": {value}")
        for key, value in (("initial", 0.0), ("growth", 1.0), ("backoff", 1.0))
    ),
    ("precision=fp16 precision.loss_scale.interval=0", "interval", "at least 1"),
    ("tracking.name=mlflow", "tracking=mlflow", "none, tensorboard, wandb"),
    ("train.epochs=null", "train.epochs or train.steps", "null"),
    ("train.epochs=0", "train.epochs", "got 0", "at least 1"),
    ("train.steps=0", "train.steps", "got 0", "at least 1"),
    ("train.global_batch_size=0", "train.global_batch_size", "got 0", "at least 1"),
    ("train.seed=-1", "train.seed", "-1", "at least 0"),
    ("train.log_every_steps=0", "train.log_every_steps", "got 0", "at least 1"),
    ("train.timed_seconds=0", "train.timed_seconds", "got 0", "> 0"),
    ("train.timed_seconds=.nan", "train.timed_seconds", "got nan", "finite"),
    (
        *("train.timed_seconds=3 train.trace=2", "train.timed_seconds=3"),
        *("train.trace=2", "set one of them to null"),
    ),
    ("parallel.cores_per_device=0", "parallel.cores_per_device", "got 0"),
    ("train.evaluate_every_epochs=-1", "train.evaluate_every_epochs", "-1", "least 0"),
    ("train.perturb_seed=-1", "train.perturb_seed", "-1", "at least 0"),
    ("checkpoint.every_steps=0", "checkpoint.every_steps", "got 0", "at least 1"),
    ("checkpoint.every_minutes=-1", "checkpoint.every_minutes", "-1", "at least 0"),
    ("checkpoint.every_minutes=.nan", "checkpoint.every_minutes", "nan", "finite"),
    ("checkpoint.keep=0", "checkpoint.keep", "got 0", "at least 1"),
    ("run.resume=''", "run.resume", "empty", "auto, never, or the path"),
    ("devices=0", "devices", "got 0", "at least 1"),
    ("platform=tpu", "platform=tpu", "auto, cpu, gpu"),
    (
        "~experiment",
        "name, train.global_batch_size, tuned.adamw, tuned.sgd",
        "choose an experiment",
    ),
]
BAD_PARITY = [
    ("world_sizes=[]", "world_sizes", "[]", "[1,2,4]"),
    ("world_sizes=[2,0]", "world_sizes", "[2, 0]", "positive"),
    ("jax_layouts=[threads]", "jax_layouts=threads", "devices, processes"),
    ("jax_layouts=[]", "jax_layouts", "empty", "devices, processes or both"),
    ("controls=0", "controls", "got 0", "at least 1"),
    ("timeout_seconds=0", "timeout_seconds", "got 0", "at least 1"),
    ("devices=2", "devices", "world_sizes=[...]"),
    ("train.perturb_seed=1", "train.perturb_seed", "at 0"),
    ("run.resume=never", "run.resume", "from the start", "auto"),
]
ON_THE_BOUND = (
    *("optim.momentum=0", "optim.nesterov=false", "optim.weight_decay=0"),
    *("schedule.warmup_steps=0", "schedule.end_factor=1", "data.noise=0"),
    *("model=cnn", "data.image_shape=[16,16,1]", "model.channels=[1,1]"),
    *("train.epochs=1", "train.global_batch_size=1", "train.seed=0", "devices=1"),
    *("train.log_every_steps=1", "train.evaluate_every_epochs=0", "data.classes=0"),
)


def answered(bad: list[tuple[str, ...]]) -> list:
    return [pytest.param(given, parts, id=given) for given, *parts in bad]


def refusal(config, overrides: str, schema: type[Config] = Config) -> str:
    with pytest.raises(ConfigError) as refused:
        config(*overrides.split(), schema=schema)
    return str(refused.value)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_survives_yaml(config, experiment):
    recipe = config(f"experiment={experiment}")
    assert recipe.name == experiment
    assert from_yaml(to_yaml(recipe)) == recipe
    for count in 1, 2, 4, 8:
        check_world(recipe, Processes(count=count))


@pytest.mark.parametrize("group, names", GROUPS.items())
def test_a_group_offers_what_the_schema_allows(group, names):
    found = {file.stem for file in (CONF / group).glob("*.yaml")} - PRESETS
    assert tuple(sorted(found)) == names


@pytest.mark.parametrize("group, names", GROUPS.items())
def test_an_option_of_a_group_is_of_its_name(config, group, names):
    for name in names:
        assert getattr(config(f"{group}={name}"), group).name == name


def test_a_value_that_is_typed_and_one_that_is_merged_are_the_same(compose, config):
    typed = *ON_THE_BOUND, "data.std=[1e-5]", "train.steps=null", "run.dir=a/b"
    assert to_config(compose(*typed)) == config(*typed)
    assert to_config(compose(*typed)) != config()


@pytest.mark.parametrize("overrides, parts", answered(BAD))
def test_a_bad_value_is_answered_with_key_value_and_what_is_allowed(
    config, overrides, parts
):
    message = refusal(config, overrides)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("overrides, parts", answered(BAD_PARITY))
def test_so_is_a_bad_value_of_a_parity_check(config, overrides, parts):
    message = refusal(config, overrides, ParityConfig)
    assert [part for part in parts if part not in message] == [], message


def test_what_lies_on_the_bound_is_accepted(config):
    recipe = config(*ON_THE_BOUND)
    assert (recipe.optim.momentum, recipe.schedule.end_factor) == (0, 1)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "key",
    [
        *("data.mean", "data.std", "data.noise", "schedule.end_factor"),
        *("optim.peak_lr", "optim.momentum", "optim.weight_decay"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(config, key, value):
    value = f"[{value}]" if key in ("data.mean", "data.std") else value
    message = refusal(config, f"{key}={value}")
    assert message.startswith(f"{key} must ")
    assert message.endswith(f", got {value}")


@pytest.mark.parametrize(
    "override, parts",
    [
        ("train.batch=8", ["train.batch", "'batch' not in 'TrainConfig'"]),
        (
            "train.global_batch_size=many",
            ["train.global_batch_size", "many", "Integer"],
        ),
        (
            "train.global_batch_size=64.5",
            ["train.global_batch_size", "64.5", "Integer"],
        ),
        ("train.seed=true", ["train.seed", "True", "Integer"]),
        ("optim.peak_lr=high", ["optim.peak_lr", "high", "Float"]),
        ("optim.nesterov=maybe", ["optim.nesterov", "maybe", "bool"]),
        ("data.image_shape=[a,b,c]", ["data.image_shape", "a", "Integer"]),
        ("model=transformer", ["model/transformer", "cnn\n\tcustom\n\tlinear\n\tmlp"]),
    ],
)
def test_hydra_refuses_keys_types_and_options_that_are_not_there(
    compose, override, parts
):
    with pytest.raises(HydraException) as refused:
        compose(override)
    message = f"{refused.value} {refused.value.__cause__}"
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("text", ["null", "yes", "1e3", "é: #1", "a b", "- [x]"])
def test_any_text_survives_yaml(config, text):
    recipe = replace(config(), run=RunConfig(dir=text))
    assert from_yaml(to_yaml(recipe)) == recipe


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "x" * 61, "<b>"])
def test_a_name_that_no_folder_or_tracker_could_bear_is_refused(config, name):
    with pytest.raises(ConfigError, match="1 to 60 letters"):
        replace(config(), name=name)


@pytest.mark.parametrize("number", [1e-5, 5e-324, 0.1 + 0.2, 1e22, 3.0])
def test_any_number_survives_yaml_to_the_last_bit(config, number):
    recipe = config()
    recipe.optim = replace(recipe.optim, peak_lr=number)
    assert from_yaml(to_yaml(recipe)).optim.peak_lr == number


def test_yaml_is_checked_again_when_read(config):
    text = to_yaml(config()).replace("  seed: 0", "  seed: -1")
    with pytest.raises(ConfigError, match="^train.seed must be at least 0, got -1$"):
        from_yaml(text)


@pytest.mark.parametrize(
    "text, told",
    [
        ("train: {seed", "expected ',' or '}'"),
        ("\0", "unacceptable character"),
        ("unknown: 1", "'unknown' not in 'Config'"),
        ("train: {steps: many}", "train.steps"),
        (f"optim: {{peak_lr: {10**400}}}", "too large"),
        ("data: null", "'data' is not Optional"),
        ("- data", "merge"),
        ("5", "mapping"),
        ("name: ${oc.env:WANDB_API_KEY}", "holds values, and no ${references}"),
        ("tracking: {tags: ['${name}']}", "holds values, and no ${references}"),
        ("", "leaves data, model, name, optim"),
    ],
)
def test_text_that_is_no_config_is_refused(text, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        from_yaml(text)


@pytest.mark.parametrize(
    "override",
    [
        "devices=2",
        "platform=cpu",
        "parallel=pmap",
        "tracking=wandb",
        "run.dir=elsewhere",
        "data.root=elsewhere",
        "data.source=tfds",
        "data.class_names=[a,b,c,d,e,f,g,h,i,j]",
        "data.resize=crop",
        "train.perturb_seed=1",
        "train.log_every_steps=5",
        "train.timed_seconds=3",
        "parallel.cores_per_device=1",
        "compile=true",
        "compile=max",
    ],
)
def test_where_a_run_happens_is_no_part_of_the_recipe(config, override):
    assert recipe_hash(config(override)) == recipe_hash(config())
    assert asdict(config(override)) != asdict(config())


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "data=mnist",
        "data.std=[0.5]",
        "model.hidden=[65]",
        "optim.peak_lr=0.051",
        "optim.nesterov=false",
        "optim.ema_decay=0.9",
        "schedule=constant",
        "schedule.warmup_steps=1",
        "precision=fp64",
        "train.seed=1",
        "train.global_batch_size=128",
        "train.epochs=21",
        "train.steps=5",
        "parallel.grad_sync=false",
        "parallel=local_sgd",
        "optim.update=false",
    ],
)
def test_what_a_run_computes_is_part_of_the_recipe(config, override):
    assert recipe_hash(config(override)) != recipe_hash(config())


@pytest.mark.parametrize("key", ["resize=crop", "test_fraction=0.5", "split_seed=1"])
def test_how_image_files_become_arrays_is_part_of_the_recipe(config, key):
    given = recipe_hash(config("data=folder", f"data.{key}"))
    assert given != recipe_hash(config("data=folder"))


@pytest.mark.parametrize("data", DATASETS)
def test_datasets_lie_where_duet_data_says(config, monkeypatch, tmp_path, data):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DUET_DATA", raising=False)
    assert config(f"data={data}").data.root == str(tmp_path / ".cache" / "duet")
    monkeypatch.setenv("DUET_DATA", "~/else where")
    assert config(f"data={data}").data.root == str(tmp_path / "else where")


@pytest.mark.parametrize("data", DATASETS)
def test_a_duet_data_that_is_empty_is_refused(config, monkeypatch, data):
    monkeypatch.setenv("DUET_DATA", "")
    with pytest.raises(ConfigError, match=r"^data\.root is empty; .* unset DUET_DATA$"):
        config(f"data={data}")


def test_only_fp16_scales_its_loss_by_default(config):
    for name in PRECISIONS:
        scaled = config(f"precision={name}").precision.loss_scale is not None
        assert scaled == (name == "fp16")
    assert from_yaml(to_yaml(config("precision=fp16"))) == config("precision=fp16")


def test_deterministic_kernels_make_no_other_experiment(config):
    recipe = config()
    assert recipe_hash(recipe) == recipe_hash(config("deterministic=true"))
    assert recipe_hash(recipe) != recipe_hash(config("train.grad_accum_steps=2"))


def test_any_experiment_takes_synthetic_data_of_its_own_shape(config):
    for experiment in EXPERIMENTS:
        if experiment != "linear_line":
            recipe = config(f"experiment={experiment}", "data=synthetic")
            assert recipe.data.image_shape == recipe.task.image_shape
            assert len(recipe.data.mean) == recipe.data.image_shape[2]


def test_a_key_that_came_later_leaves_the_hashes_of_older_records_as_they_were(config):
    assert "stem" not in recipe_parts(config())["model"]
    resnet = ["data=synthetic", "model=resnet18"]
    assert "stem" not in recipe_parts(config(*resnet))["model"]
    imagenet = recipe_parts(config(*resnet, "model.stem=imagenet"))
    assert imagenet["model"]["stem"] == "imagenet"
    assert "dropout" not in recipe_parts(config())["model"]
    assert recipe_parts(config("model.dropout=0.1"))["model"]["dropout"] == 0.1
    assert "ema_decay" not in recipe_parts(config())["optim"]
