"""A config is complete and checked, or refused with what to write instead."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hydra.errors import HydraException

from recipe.config import (
    DATASETS,
    MODELS,
    OPTIMIZERS,
    PARALLEL,
    PRECISIONS,
    SCHEDULES,
    TRACKERS,
    Config,
    ParityConfig,
    RunConfig,
    check_world,
    from_yaml,
    recipe_hash,
    to_config,
    to_yaml,
    world_size,
)
from recipe.errors import ConfigError
from recipe.processes import Processes

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
GROUPS = {
    "data": DATASETS,
    "model": MODELS,
    "optim": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "parallel": PARALLEL,
    "tracking": TRACKERS,
}

# What is typed, then what the answer must hold: the key, the value, what is allowed.
BAD = [
    ("data.name=cifar", "data.name=cifar", "digits, fashion_mnist"),
    ("data.image_shape=[28,28]", "data.image_shape", "[28, 28]", "width, channels]"),
    ("data.image_shape=[0,28,1]", "data.image_shape", "[0, 28, 1]", "at least 1"),
    ("data.mean=[0.1,0.2]", "data.mean", "[0.1, 0.2]", "each of 1 channels"),
    ("data.std=[]", "data.std", "[]", "each of 1 channels"),
    ("data.std=[0.0]", "data.std", "[0.0]", "> 0"),
    ("data.classes=-1", "data.classes", "-1", "at least 0"),
    ("data.train_examples=0", "data.train_examples", "got 0", "at least 1"),
    ("data.test_examples=0", "data.test_examples", "got 0", "at least 1"),
    ("data.noise=-0.5", "data.noise", "-0.5", "at least 0"),
    ("model.name=resnet", "model.name=resnet", "cnn, linear, mlp"),
    ("model=mlp model.channels=[8]", "model.channels", "[8]", "0 positive"),
    ("model=cnn model.channels=[8]", "model.channels", "[8]", "2 positive"),
    ("model=cnn model.channels=[8,0]", "model.channels", "[8, 0]", "positive"),
    ("model=mlp model.hidden=[0]", "model.hidden", "[0]", "positive widths"),
    ("model=linear model.hidden=[9]", "model.hidden", "[9]", "empty"),
    ("model=cnn data.image_shape=[28,15,1]", "data.image_shape", "28x15", "16x16"),
    ("optim.name=lion", "optim.name=lion", "sgd"),
    ("optim.peak_lr=0", "optim.peak_lr", "got 0", "> 0"),
    ("optim.peak_lr=nan", "optim.peak_lr", "got nan", "> 0"),
    ("optim.momentum=1.0", "optim.momentum", "got 1.0", "[0, 1)"),
    ("optim.momentum=-0.1", "optim.momentum", "got -0.1", "[0, 1)"),
    ("optim.momentum=0", "optim.nesterov=true", "got 0", "momentum > 0"),
    ("optim.weight_decay=-1", "optim.weight_decay", "-1", "at least 0"),
    ("optim.decay=biases", "optim.decay=biases", "all, kernels"),
    ("schedule.name=linear", "schedule.name=linear", "constant, cosine"),
    ("schedule.warmup_steps=-1", "schedule.warmup_steps", "-1", "at least 0"),
    ("schedule.end_factor=1.5", "schedule.end_factor", "1.5", "[0, 1]"),
    ("precision.name=fp8", "precision=fp8", "fp32, fp64"),
    ("parallel.name=mpi", "parallel=mpi", "dp, pmap"),
    ("tracking.name=mlflow", "tracking=mlflow", "none, tensorboard, wandb"),
    ("train.epochs=null", "train.epochs or train.steps", "null"),
    ("train.epochs=0", "train.epochs", "got 0", "at least 1"),
    ("train.steps=0", "train.steps", "got 0", "at least 1"),
    ("train.global_batch=0", "train.global_batch", "got 0", "at least 1"),
    ("train.seed=-1", "train.seed", "-1", "at least 0"),
    ("train.window_steps=0", "train.window_steps", "got 0", "at least 1"),
    ("train.evaluate_every_epochs=-1", "train.evaluate_every_epochs", "-1", "least 0"),
    ("train.nudge=-1", "train.nudge", "-1", "at least 0"),
    ("devices=0", "devices", "got 0", "at least 1"),
    ("platform=tpu", "platform=tpu", "auto, cpu, gpu"),
    ("~experiment", "name, train.global_batch", "choose an experiment"),
]
BAD_PARITY = [
    ("world_sizes=[]", "world_sizes", "[]", "[1,2,4]"),
    ("world_sizes=[2,0]", "world_sizes", "[2, 0]", "positive"),
    ("jax_layouts=[threads]", "jax_layouts=threads", "devices, processes"),
    ("jax_layouts=[]", "jax_layouts", "empty", "devices, processes or both"),
    ("controls=0", "controls", "got 0", "at least 1"),
    ("timeout_seconds=0", "timeout_seconds", "got 0", "at least 1"),
    ("devices=2", "devices", "world_sizes=[...]"),
    ("train.nudge=1", "train.nudge", "at 0"),
]
ON_THE_BOUND = (
    *("optim.momentum=0", "optim.nesterov=false", "optim.weight_decay=0"),
    *("schedule.warmup_steps=0", "schedule.end_factor=1", "data.noise=0"),
    *("model=cnn", "data.image_shape=[16,16,1]", "model.channels=[1,1]"),
    *("train.epochs=1", "train.global_batch=1", "train.seed=0", "devices=1"),
    *("train.window_steps=1", "train.evaluate_every_epochs=0", "data.classes=0"),
)


def refusal(compose, overrides: str, schema: type[Config] = Config) -> str:
    with pytest.raises(ConfigError) as refused:
        to_config(compose(*overrides.split(), schema=schema), schema)
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
    assert tuple(sorted(file.stem for file in (CONF / group).glob("*.yaml"))) == names


@pytest.mark.parametrize("group, names", GROUPS.items())
def test_an_option_of_a_group_is_of_its_name(config, group, names):
    for name in names:
        nested = {"model": "data.mean=[0]", "data": "model=linear"}.get(group, "")
        recipe = config(f"{group}={name}", *filter(None, [nested]))
        assert getattr(recipe, group).name == name


@pytest.mark.parametrize("overrides, *parts", BAD, ids=[bad[0] for bad in BAD])
def test_a_bad_value_is_answered_with_key_value_and_what_is_allowed(
    compose, overrides, parts
):
    message = refusal(compose, overrides)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    "overrides, *parts", BAD_PARITY, ids=[bad[0] for bad in BAD_PARITY]
)
def test_so_is_one_of_a_parity_check(compose, overrides, parts):
    message = refusal(compose, overrides, ParityConfig)
    assert [part for part in parts if part not in message] == [], message
