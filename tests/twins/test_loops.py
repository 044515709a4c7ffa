"""What XLA makes slow on a CPU is in no compiled step.

It gives a convolution in the body of a loop none of its fast kernels, and lets devices
wait for each other at every sum.
"""

import re
from inspect import unwrap
from itertools import product
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks.gpu.hlo import products_in_loops
from jax_impl import exchange as jax_exchange
from jax_impl import parallel as jax_parallel
from recipe.config import Config
from recipe.execution import Strategy
from tests.conftest import exhaustive_but
from tests.twins.small_models import MODELS, one_block_a_stage
from tests.twins.steps import jax_call, random_arrays, random_weights

CASES = [  # one micro-batch or four, on one device or two
    *((model, 1, ["train.grad_accum_steps=1"]) for model in MODELS),
    *((model, 2, ["train.grad_accum_steps=4"]) for model in ("mlp", "cnn", "vit_tiny")),
    ("resnet9", 2, ["train.grad_accum_steps=2"]),
    *(
        ("cnn", 2, ["train.grad_accum_steps=4", f"parallel={x}"])
        for x in ("fsdp", "pmap")
    ),
    ("cnn", 2, ["train.grad_accum_steps=4", "parallel.grad_sync=false"]),
]
KEPT = [
    *(
        (model, 1, ["train.grad_accum_steps=1"])
        for model in ("mlp", "resnet9", "vit_tiny")
    ),
    ("cnn", 2, ["train.grad_accum_steps=4"]),
]


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    one_block_a_stage(monkeypatch)


def compiled_step(config: Config, devices: int) -> str:
    """The text of the module that XLA makes of a training step."""
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (jax_parallel.AXIS,))
    strategy, grad_sync = Strategy(config.parallel.name), config.parallel.grad_sync
    world = jax_parallel.World(0, 1, devices, mesh, strategy, grad_sync)
    batch = np.zeros((1, config.train.global_batch_size), np.int32)
    weights = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
    given = weights, random_arrays(config), batch, 0.1, world
    step, state, (others,) = jax_call(config, *given)
    if world.mapped:
        mapped = jax.pmap(step, jax_parallel.AXIS, devices=tuple(mesh.devices.flat))
        return str(mapped.lower(state, *others).compile().as_text())
    given = step, (state, *others), world
    compiled: Any = unwrap(jax_parallel.parallelize(*given, donate=True)[0])
    return compiled.as_text()


@pytest.mark.parametrize(
    ("model", "devices", "how"), exhaustive_but(KEPT, CASES), ids=str
)
def test_a_step_on_a_cpu_has_no_product_in_a_loop(model, devices, how, make_config):
    module = compiled_step(make_config(*MODELS[model], *how), devices)
    assert re.search(r" (convolution|dot)\(", module)
    assert products_in_loops(module) == []


def test_a_scan_over_micro_batches_would_be_found(make_config, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = make_config(*MODELS["cnn"], "train.grad_accum_steps=4")
    found = products_in_loops(compiled_step(config, 1))
    assert any(" convolution(" in line for line in found)


def summed(module: str) -> int:
    """Arrays that are summed over the devices; XLA may put several into one sum."""
    return "".join(re.findall(r" all-reduce\(([^)]*)\)", module)).count("%")


@pytest.mark.parametrize(
    ("model", "how"),
    exhaustive_but(
        [("resnet9", "parallel=dp"), ("cnn", "parallel=pmap")],
        product(("cnn", "resnet9"), ("parallel=dp", "parallel=pmap")),
    ),
)
def test_devices_of_a_cpu_meet_once_a_step(model, how, make_config):
    local = ["model.norm.sync=false"] if model == "resnet9" else []
    config = make_config(*MODELS[model], how, *local)
    assert summed(compiled_step(config, 2)) == 1


def test_a_sum_for_each_gradient_would_be_found(make_config, monkeypatch):
    def separately(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.psum(x, jax_parallel.AXIS), tree)

    monkeypatch.setattr(jax_exchange, "_sum", separately)
    module = compiled_step(make_config(*MODELS["cnn"]), 2)
    assert summed(module) > 1


def test_a_product_in_a_branch_would_be_found():
    def branch(wanted, x):
        return jax.lax.cond(wanted, lambda: x @ x, lambda: x)

    given = jax.ShapeDtypeStruct((), bool), jax.ShapeDtypeStruct((8, 8), np.float32)
    module = jax.jit(branch).lower(*given).compile().as_text()
    assert len(products_in_loops(str(module))) == 1
