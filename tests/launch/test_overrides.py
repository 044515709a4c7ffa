"""What Hydra finds wrong is said in our words, with what is allowed."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException

from launch.overrides import refusal
from recipe.config import Config
from tests.conftest import ROOT

SAID = {
    "train.steps=abc": "train.steps=abc: a whole number is wanted",
    "optim.peak_lr=abc": "optim.peak_lr=abc: a number is wanted",
    "run.resume_anyway=maybe": "run.resume_anyway=maybe: true or false is wanted",
    "train.global_batch=null": "train.global_batch=null: null is not allowed here",
    "name=[1]": "name=[1]: one text is wanted, no list and no keys",
    "checkpoint=1": "checkpoint=1: it has keys of its own, such as "
    "checkpoint.every_steps, checkpoint.every_minutes, checkpoint.keep",
    "cluster=slurm": "cluster is a key of launch/study.py alone",
    "study.repeats=3": "study is a key of launch/study.py alone",
    "jax_layouts=[devices]": "jax_layouts is a key of launch/parity.py alone",
}


@pytest.mark.parametrize("override", SAID)
def test_a_value_that_a_key_does_not_take_is_told_with_what_it_takes(override):
    ConfigStore.instance().store("schema", node=Config)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        with pytest.raises(HydraException) as refused:
            compose("config", [override])
        assert str(refusal(refused.value, Config)) == SAID[override]
