"""What Hydra finds wrong is said in our words, with what is allowed."""

import shutil

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException

from launch.newcomers import KEYS
from launch.overrides import checked, refusal
from recipe.config import Config, known_keys
from recipe.errors import ConfigError
from recipe.parity import ParityConfig
from recipe.renamed import KEYS as RENAMED
from recipe.study import StudyConfig
from tests.conftest import ROOT

SAID = {
    "train.steps=abc": "train.steps=abc: a whole number is expected",
    "optim.peak_lr=abc": "optim.peak_lr=abc: a number is expected",
    "run.resume_anyway=maybe": "run.resume_anyway=maybe: true or false is expected",
    "compile=1": "compile=1: true, false or max is expected",
    "train.global_batch_size=null": "train.global_batch_size=null: "
    "null is not allowed here",
    "name=[1]": "name=[1]: a string is expected, not a list or keys",
    "checkpoint=1": "checkpoint=1: it has keys of its own, such as "
    "checkpoint.every_steps, checkpoint.every_minutes, checkpoint.at_end",
    "cluster=slurm": "cluster is a key of launch/study.py alone",
    "study.repeats=3": "study is a key of launch/study.py alone",
    "jax_layouts=[devices]": "jax_layouts is a key of launch/parity.py alone",
    "data=npz": "data=npz is unknown; write data=custom data.files=FILE.npz",
    "data=EMNIST": "data=EMNIST is unknown; write data=custom data.files=FOLDER, which "
    "holds four IDX files",
    "data=imagefolder": "data=imagefolder is unknown; write data=folder "
    "data.files=FOLDER",
}


@pytest.mark.parametrize("override", SAID)
def test_a_value_that_a_key_does_not_take_is_reported_with_what_it_takes(override):
    ConfigStore.instance().store("schema", node=Config)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        with pytest.raises(HydraException) as refused:
            compose("config", [override])
        assert str(refusal(refused.value, Config)) == SAID[override]


CALLED = {
    "learning_rate=0.1": "did you mean optim.peak_lr?",
    "lr=0.1": "did you mean optim.peak_lr?",
    "optim.lr=0.1": "did you mean optim.peak_lr?",
    "batch_size=4": "did you mean train.global_batch_size (examples of a step over all",
    "train.batch_size=4": "did you mean train.global_batch_size (",
    "global_batch_size=4": "did you mean train.global_batch_size (",
    "global_batch=4": "did you mean train.global_batch_size?",
    "grad_accum_steps=2": "did you mean train.grad_accum_steps?",
    "accumulate=2": "did you mean train.grad_accum_steps?",
    "optim.gamma=0.1": "did you mean schedule.gamma?",
    "log_every_n_steps=9": "did you mean train.log_every_steps?",
    "epochs=3": "did you mean train.epochs?",
    "num_epochs=3": "did you mean train.epochs?",
    "seed=1": "did you mean train.seed?",
    "gpus=2": "did you mean devices, or torchrun --nproc-per-node",
    "run.name=mine": "did you mean name (of the experiment, used by folders",
    "optim.weight_deca=1": "did you mean optim.weight_decay or optim.ema_decay?",
    "bogus=1": "bogus is not a key; --cfg job lists",
}


def refused(override: str, config: str, schema: type[Config]) -> str:
    ConfigStore.instance().store("schema", node=schema)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        with pytest.raises(HydraException) as refused:
            compose(config, [override])
        return str(refusal(refused.value, schema))


@pytest.mark.parametrize("override", CALLED)
def test_a_key_of_another_program_is_reported_with_ours(override):
    assert CALLED[override] in refused(override, "config", Config)


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_of_a_key_is_answered_with_the_new_one(old):
    told = f"{old} is now called {RENAMED[old]}"
    assert refused(f"{old}=1", "study", StudyConfig) == told


def test_an_old_name_of_an_option_is_answered_with_the_new_one():
    told = "model=own is now called model=custom"
    assert refused("model=own", "config", Config) == told
    with pytest.raises(ConfigError, match="write model=custom, which sets"):
        checked(["model.name=own"])


def test_an_old_name_in_a_yaml_file_is_answered_with_the_new_one(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    mine = tmp_path / "conf" / "experiment" / "digits_mlp.yaml"
    text = mine.read_text()
    mine.write_text(text.replace("global_batch_size: ", "global_batch: "))
    assert mine.read_text() != text
    ConfigStore.instance().store("schema", node=Config)
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        with pytest.raises(HydraException) as refused:
            compose("config", ["experiment=digits_mlp"])
        told = str(refusal(refused.value, Config))
    assert told == (
        "experiment/digits_mlp.yaml: train.global_batch is now called "
        "train.global_batch_size"
    )


@pytest.mark.parametrize(
    ("config", "schema", "told"),
    [
        ("study", StudyConfig, "study.world_size=[...] and cluster.gpus_per_node"),
        ("parity", ParityConfig, "did you mean world_sizes=[...]?"),
    ],
)
def test_each_script_counts_devices_by_a_key_of_its_own(config, schema, told):
    assert told in refused("num_gpus=2", config, schema)


def test_every_key_that_is_meant_is_one():
    known = known_keys(Config)
    for key in KEYS:
        first = key.partition(" ")[0].partition("=")[0]
        assert first in known, key


FLAGS = {
    ("--epochs", "3"): "--epochs is not a flag; write keys without dashes and with =: "
    "train.epochs=3; --help",
    ("--lr=5",): "--lr is not a flag; write keys without dashes and with =: "
    "optim.peak_lr=5; --help",
    ("--batch-size", "64"): ": train.global_batch_size=64 (examples of a step",
    ("--gpus", "2"): ": devices=2, or torchrun",
    ("--optimizer", "adamw"): ": optim=sgd or optim=adamw; --help",
    ("--seed", "--resume"): ": train.seed=VALUE; --help",
    ("--bogus",): "--bogus is not a flag; write keys without dashes and with =: "
    "KEY=VALUE; --help",
}


@pytest.mark.parametrize("flags", FLAGS)
def test_a_flag_of_another_program_is_answered_with_our_key(flags):
    with pytest.raises(ConfigError) as refused:
        checked(list(flags))
    assert FLAGS[flags] in str(refused.value)


@pytest.mark.parametrize(
    ("word", "config", "schema", "told"),
    [
        ("digits_cnn", "config", Config, "key=value, such as experiment=digits_cnn"),
        ("cnn", "config", Config, "key=value, such as experiment=digits_cnn"),
        ("runs/a", "parity", ParityConfig, "a=runs/a b=ANOTHER to compare two run f"),
    ],
)
def test_a_word_without_an_equals_sign_is_answered_with_one(word, config, schema, told):
    assert refused(word, config, schema).startswith(f'{word} has no "="; write {told}')


@pytest.mark.parametrize("override", ["model.name=cnn", "data.name=mnist"])
def test_a_group_is_chosen_whole_and_not_by_its_name(override):
    group, _, choice = override.partition(".name=")
    with pytest.raises(ConfigError, match=f"write {group}={choice}, which sets"):
        checked([override])
    assert checked(["model.norm.name=group", "study.name=mine", "name=mine"])


def test_a_command_without_arguments_is_one():
    assert checked([]) == []
