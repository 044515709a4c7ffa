"""What is sharded, and what cannot be."""

import pytest

import jax_impl.parallel
import torch_impl.parallel
from recipe.errors import ConfigError
from runtime.processes import Processes

SMALL = ["model=mlp", "model.hidden=[10]", "data.image_shape=[4,4,1]"]
TWINS = pytest.mark.parametrize("twin", [torch_impl.parallel, jax_impl.parallel])


@TWINS
@pytest.mark.parametrize(
    "devices, nearest", [(32, "16; or"), (7, "5, 8; or"), (3, "2, 4; or")]
)
def test_more_devices_than_any_dimension_allows_are_refused_alike(
    config, twin, devices, nearest
):
    recipe = config("parallel=fsdp", *SMALL)
    processes = Processes("torchrun", count=devices, coordinator="h:1")
    told = f"over world_size={devices}: .* the largest is 16; nearest .* do: {nearest}"
    with pytest.raises(ConfigError, match=told):
        twin.check(recipe, processes)


@TWINS
@pytest.mark.parametrize("devices", [1, 2, 4, 5, 16])
def test_devices_that_divide_one_dimension_are_taken(config, twin, devices):
    processes = Processes("torchrun", count=devices, coordinator="h:1")
    twin.check(config("parallel=fsdp", *SMALL), processes)
    twin.check(config("parallel=dp", *SMALL), processes)
