"""What does not divide over a run's devices is refused with what would."""

from dataclasses import replace

import pytest

from recipe.config import to_config
from recipe.errors import ConfigError
from runtime.processes import Processes
from runtime.world import check_world, world_size

PYTHON = Processes()


@pytest.mark.parametrize(
    "batch, devices, processes, message",
    [
        (100, 8, 1, "train.global_batch_size=100 .* world_size=8; .* 96, 104$"),
        (5, 8, 8, "train.global_batch_size=5 .* world_size=8; use 8$"),
        (64, 3, 2, "devices=3 does not divide over 2 processes; .* multiple of 2$"),
        (64, 1, 2, "devices=1 does not divide over 2 processes; .* multiple of 2$"),
        (64, None, 3, "train.global_batch_size=64 .* world_size=3; .* 63, 66$"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_nearest_that_can(
    config, batch, devices, processes, message
):
    recipe = replace(config(f"train.global_batch_size={batch}"), devices=devices)
    with pytest.raises(ConfigError, match=message):
        check_world(recipe, Processes(count=processes))


@pytest.mark.parametrize("batch, devices", [(96, 8), (104, 8), (8, 8), (63, 3)])
def test_the_nearest_that_can_is_accepted(config, batch, devices):
    check_world(
        config(f"train.global_batch_size={batch}", f"devices={devices}"), PYTHON
    )


def test_the_world_is_devices_or_one_for_each_process(config):
    assert world_size(config(), Processes(count=4)) == 4
    assert world_size(config("devices=8"), Processes(count=4)) == 8


def test_a_batch_that_does_not_divide_over_devices_and_parts_names_those_that_do(
    config,
):
    recipe = config(
        "train.global_batch_size=100", "train.grad_accum_steps=4", "devices=8"
    )
    told = "world_size=8 x train.grad_accum_steps=4; nearest that do: 96, 128$"
    with pytest.raises(ConfigError, match=told):
        check_world(recipe, PYTHON)
    check_world(
        replace(recipe, train=replace(recipe.train, global_batch_size=96)), PYTHON
    )


@pytest.mark.parametrize(
    "devices, norm, refused",
    [
        (4, "model.norm.sync=false", True),
        (4, "model.norm.sync=true", False),
        (2, "model.norm.sync=false", False),
        (4, "model.norm={name:group,sync:false,groups:8}", False),
    ],
)
def test_batch_norm_over_one_example_is_refused(compose, devices, norm, refused):
    composed = compose("data=synthetic", "model=resnet18", norm, f"devices={devices}")
    config = to_config(composed)
    config.train.global_batch_size = 4
    if refused:
        with pytest.raises(ConfigError, match="one example .* model.norm.sync=true"):
            check_world(config, Processes())
    else:
        check_world(config, Processes())
