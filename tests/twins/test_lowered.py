"""What a GPU would be given: every experiment's step, lowered for CUDA on a CPU."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import jax
import numpy as np
import pytest

from jax_impl import exchange, layers, model, precision, step
from recipe.architecture import RESNETS
from recipe.config import Config
from recipe.weights import is_trained, weight_shapes
from runtime.sharding import sharded_axis
from tests.conftest import exhaustive_but
from tests.twins.lowering import Module, lowered
from tests.twins.steps import config_of

DEVICES = 2
EXPERIMENTS = (
    *("linear_line", "digits_mlp", "digits_cnn"),
    *("cifar10_resnet9", "cifar10_resnet18", "cifar10_vit_tiny"),
    "imagenet_like_resnet50",
)
ALIKE = (  # to one of those but for the sizes
    *("mnist_mlp", "mnist_cnn", "fashion_mlp", "fashion_cnn", "cifar100_resnet18"),
)
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp64")
ONCE = [(experiment, "bf16", 1, "dp") for experiment in (*EXPERIMENTS, *ALIKE)]
EACH = list(product(EXPERIMENTS, PRECISIONS, (1, 4), ("dp", "fsdp")))
CASES = list(dict.fromkeys([*ONCE, *EACH]))
KEPT = [
    *ONCE,
    *(case for case in EACH if case[0] == "digits_cnn" and case not in ONCE),
    ("cifar10_resnet9", "tf32", 4, "fsdp"),
    ("cifar10_vit_tiny", "fp16", 1, "fsdp"),
]
DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}
every_step = pytest.mark.parametrize(
    ("experiment", "name", "parts", "strategy"),
    exhaustive_but(KEPT, CASES),
)


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """Traced as on a GPU; with one block a stage, as more are more of the same."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(precision, "_has_tf32", lambda device: True)
    for name, form in RESNETS.items():
        monkeypatch.setitem(RESNETS, name, replace(form, blocks=(1, 1, 1, 1)))


def config_for(experiment: str, name: str, parts: int, strategy: str) -> Config:
    blocks = ["model.blocks=1"] if experiment == "cifar10_vit_tiny" else []
    return config_of(
        *(f"experiment={experiment}", f"precision={name}", *blocks),
        *(f"parallel={strategy}", f"train.grad_accum_steps={parts}"),
        *("train.global_batch_size=16", "train.steps=4", "train.log_every_steps=2"),
    )


@cache  # one lowering, read by every law
def step_of(*case: Any) -> Module:
    return lowered(config_for(*case), DEVICES)


def planted(*case: Any) -> Module:
    """A step that no other test gets to see."""
    return lowered(config_for(*case), DEVICES)


@every_step
def test_only_micro_batches_are_a_loop(experiment, name, parts, strategy):
    assert step_of(experiment, name, parts, strategy).count("while") == (parts > 1)


def test_a_loop_over_examples_would_be_found(monkeypatch):
    def flatten(x):
        return jax.lax.map(lambda image: image.reshape(-1), x)

    monkeypatch.setattr(model, "flatten", flatten)
    assert planted("digits_mlp", "fp32", 1, "dp").count("while") > 0


@every_step
def test_only_the_proof_mode_has_fp64(experiment, name, parts, strategy):
    module = step_of(experiment, name, parts, strategy)
    assert ("f64" in module.dtypes) == (name == "fp64")


@every_step
def test_a_step_calls_nothing_on_the_host(experiment, name, parts, strategy):
    assert step_of(experiment, name, parts, strategy).outside_calls == set()


def test_a_callback_in_a_step_would_be_found(monkeypatch):
    gather = step.gather

    def reported(*given):
        images, labels = gather(*given)
        jax.debug.print("{}", labels)
        return images, labels

    monkeypatch.setattr(step, "gather", reported)
    # It needs a live client of the GPU.
    with pytest.raises(ValueError, match="different from the lowering platform"):
        planted("digits_mlp", "fp32", 1, "dp")


@every_step
def test_the_whole_state_is_donated(experiment, name, parts, strategy):
    module = step_of(experiment, name, parts, strategy)
    assert module.donated == module.leaves > 0


def test_a_state_that_is_not_donated_would_be_found():
    module = lowered(config_for("digits_mlp", "fp32", 1, "dp"), 2, donate=False)
    assert module.donated == 0


def exchanged(config: Config) -> Counter[str]:
    """Numbers that a device gets in a step, by the shapes of what is exchanged."""
    shapes = weight_shapes(config)
    sizes = {leaf: math.prod(shape) for leaf, shape in shapes.items()}
    fsdp = config.parallel.name == "fsdp"
    sharded = sum(
        sizes[leaf]
        for leaf, shape in shapes.items()
        if fsdp and is_trained(leaf) and sharded_axis(shape, DEVICES) is not None
    )
    statistics = sum(size for leaf, size in sizes.items() if not is_trained(leaf))
    # The batch's mean and variance, and their gradients.
    synced = 2 * statistics if config.model.norm.sync else 0
    whole = sum(sizes.values()) - sharded
    found = Counter(all_reduce=1 + whole + synced)  # and the loss
    return found + Counter(all_gather=sharded, reduce_scatter=sharded // DEVICES)


@every_step
def test_devices_exchange_what_the_shapes_say(experiment, name, parts, strategy):
    config = config_for(experiment, name, parts, strategy)
    assert step_of(experiment, name, parts, strategy).exchanged == exchanged(config)


def test_gradients_that_are_summed_twice_would_be_found(monkeypatch):
    once = exchange._sum
    monkeypatch.setattr(exchange, "_sum", lambda tree: once(once(tree)))
    case = "digits_mlp", "fp32", 1, "dp"
    assert planted(*case).exchanged != exchanged(config_for(*case))


@every_step
def test_products_are_in_the_precisions_dtype(experiment, name, parts, strategy):
    dtype = precision.compute_dtype(config_for(experiment, name, parts, strategy))
    rounding = (
        "HIGH" if name == "tf32" else "HIGHEST"
    )  # HIGH is what TF32 is allowed by
    products = step_of(experiment, name, parts, strategy).products
    assert products.keys() == {(DTYPES[dtype.name], rounding)}


def test_a_product_in_another_dtype_would_be_found(monkeypatch):
    def in_fp32(self, inputs, out_sharding=None):
        return inputs.astype(np.float32) @ self.kernel[...]

    monkeypatch.setattr(layers.Dense, "__call__", in_fp32)
    found = planted("digits_mlp", "bf16", 1, "dp").products
    assert ("f32", "HIGHEST") in found


@every_step
def test_convolutions_are_the_librarys(experiment, name, parts, strategy):
    """Forward, and the gradients of kernel and input; the first has no input's."""
    shapes = weight_shapes(config_for(experiment, name, parts, strategy)).values()
    layers = sum(len(shape) == 4 for shape in shapes)
    module = step_of(experiment, name, parts, strategy)
    assert module.count("convolution") == max(0, 3 * layers - 1)


def test_a_form_for_cpus_would_be_found(monkeypatch):
    def of_a_cpu(*given, cpu, default):
        return cpu(*given)

    monkeypatch.setattr(jax.lax, "platform_dependent", of_a_cpu)
    case = "mnist_cnn", "fp32", 1, "dp"
    found = planted(*case)
    assert found.count("convolution") > 5
    assert found.count("all_reduce") == 1
