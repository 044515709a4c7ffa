"""What a GPU is given to compute has none of what would make it slow or wrong there.

Each experiment's steps, in every precision, are lowered for CUDA on a CPU.
"""

from collections import Counter
from dataclasses import replace
from itertools import product

import jax
import numpy as np
import pytest

from jax_impl import exchange, layers, parallel, precision
from jax_impl import step as steps
from recipe.architecture import RESNETS
from recipe.config import Config
from recipe.weights import is_trained
from runtime.sharding import sharded_axis
from tests.conftest import exhaustive_but
from tests.twins.lowering import DEVICES, Lowered, Step, Tensor, lower
from tests.twins.steps import config_of

NARROW = ["model.width=0.0625"]
EXPERIMENTS = {  # one of each model, narrow where it would take long
    "linear_line": [],
    "digits_mlp": [],
    "fashion_cnn": [],
    "cifar10_resnet9": NARROW,
    "cifar10_resnet18": NARROW,
    "imagenet_like_resnet50": [*NARROW, "task.image_shape=[64,64,3]"],
    "cifar10_vit_tiny": ["model.width=0.25"],
    # The same models by other recipes.
    "cifar100_resnet18": NARROW,
    **{name: [] for name in ("digits_cnn", "fashion_mlp", "mnist_cnn", "mnist_mlp")},
}
MODELS = [*EXPERIMENTS][:7]
PRECISIONS = {
    "fp32": ("f32", "HIGHEST"),
    "tf32": ("f32", "HIGH"),  # of JAX's three, the one that rounds to TF32
    "bf16": ("bf16", "HIGHEST"),
    "fp16": ("f16", "HIGHEST"),
    "fp64": ("f64", "HIGHEST"),
}
CASES = [
    *map(" ".join, product(MODELS, PRECISIONS, "14", ("dp", "fsdp"))),
    *map(" ".join, product(["fashion_cnn"], PRECISIONS, "14", ["pmap"])),
    *(f"{name} fp32 1 dp" for name in [*EXPERIMENTS][7:]),
]
CASES = [case for case in CASES if case.split()[::3] != ["linear_line", "fsdp"]]
# With all their blocks; the others have one a stage.
WHOLE = ["cifar10_resnet9 bf16 4 fsdp whole", "cifar10_resnet18 tf32 1 dp whole"]
WHOLE += ["cifar10_vit_tiny fp16 4 dp whole", "imagenet_like_resnet50 bf16 1 dp whole"]
KEPT = [
    "linear_line fp64 1 dp",
    "digits_mlp fp32 1 dp",
    "digits_mlp tf32 4 fsdp",
    "fashion_cnn fp32 4 dp",
    "fashion_cnn bf16 1 pmap",
    "fashion_cnn fp16 1 fsdp",
    *WHOLE[:2],
    "cifar10_vit_tiny fp16 4 dp",
    "imagenet_like_resnet50 bf16 1 dp",
]


@pytest.fixture(autouse=True)
def proof_mode():
    """JAX's settings are those of a run, instead of what other tests prove with."""


def config_for(case: str) -> Config:
    experiment, kind, micro_batches, strategy, *_ = case.split()
    return config_of(
        *(f"experiment={experiment}", *EXPERIMENTS[experiment]),
        *(f"precision={kind}", f"parallel={strategy}"),
        *("train.global_batch_size=16", f"train.grad_accum_steps={micro_batches}"),
    )


@pytest.fixture(scope="module", params=exhaustive_but(KEPT, [*CASES, *WHOLE]), ids=str)
def lowered(request: pytest.FixtureRequest) -> Lowered:
    config = config_for(request.param)
    if request.param in WHOLE:
        return lower(config)
    if config.model.name == "vit_tiny":
        config.model.blocks = 1
    with pytest.MonkeyPatch.context() as patch:
        for name, form in RESNETS.items():
            patch.setitem(RESNETS, name, replace(form, blocks=(1, 1, 1, 1)))
        return lower(config)


@pytest.fixture
def planted(monkeypatch):
    """Lowers a case with faults: a module, a name in it, and what replaces it."""

    def planted(case: str, *faults: tuple[object, str, object], **how) -> Lowered:
        for module, name, fault in faults:
            monkeypatch.setattr(module, name, fault)
        return lower(config_for(case), **how)

    return planted


def both(lowered: Lowered) -> list[Step]:
    return [lowered.train, lowered.evaluate]


def loops(lowered: Lowered) -> list[int]:
    return [len(step.named("while")) for step in both(lowered)]


def test_the_only_loop_is_that_over_several_micro_batches(lowered):
    several = lowered.config.train.grad_accum_steps > 1
    assert loops(lowered) == [several, 0]


def test_a_loop_would_be_counted_and_so_would_its_absence(planted):
    gather = steps.gather

    def one_by_one(*given):
        images, labels = gather(*given)
        return jax.lax.map(lambda image: 2 * image, images), labels

    assert loops(planted("digits_mlp fp32 4 dp", backend="cpu")) == [0, 0]
    looped = (steps, "gather", one_by_one)
    assert loops(planted("digits_mlp fp32 1 dp", looped)) == [1, 1]


def dtypes(lowered: Lowered) -> set[str]:
    """Of all arrays in both steps."""
    found = (
        x for s in both(lowered) for o in s.operations for x in o.operands + o.results
    )
    return {tensor.dtype for tensor in found}


def test_only_the_proof_mode_has_arrays_in_fp64(lowered):
    assert ("f64" in dtypes(lowered)) == (lowered.config.precision.name == "fp64")


def test_learning_rates_in_fp64_would_be_seen(planted):
    def allow_fp64(*_):
        jax.config.update("jax_enable_x64", True)

    wide = (steps, "parameter_dtype", lambda config: np.dtype("float64"))
    found = planted("digits_mlp fp32 1 dp", (precision, "configure", allow_fp64), wide)
    assert "f64" in dtypes(found)


def asked_of_the_host(lowered: Lowered) -> int:
    """Calls that leave the device, and those to a library, of which there are none."""
    names = "custom_call", "infeed", "outfeed", "send", "recv"
    return sum(len(step.named(*names)) for step in both(lowered))


def test_no_step_calls_the_host(lowered):
    assert asked_of_the_host(lowered) == 0


def test_a_call_of_the_host_would_be_seen(planted):
    losses = steps.example_losses

    def told(*given):
        jax.debug.print("a step")
        return losses(*given)

    # Before it could be counted: it needs a GPU's client.
    with pytest.raises(ValueError, match="different from the lowering platform cuda"):
        planted("digits_mlp fp32 1 dp", (steps, "example_losses", told))


def test_a_call_of_a_library_would_be_counted(planted):
    losses = steps.example_losses

    def called(*given):
        losses_B = jax.lax.stop_gradient(losses(*given))
        like = jax.ShapeDtypeStruct(losses_B.shape, losses_B.dtype)
        return jax.ffi.ffi_call("of_a_library", like)(losses_B)

    found = planted("digits_mlp fp32 1 dp", (steps, "example_losses", called))
    assert asked_of_the_host(found) > 0


def test_the_memory_of_the_whole_state_is_reused(lowered):
    assert lowered.train.donated == [*range(lowered.train.leaves)]
    assert lowered.evaluate.donated == []


def test_memory_that_is_not_reused_would_be_seen(planted):
    mapped = parallel._mapped
    kept = (parallel, "_mapped", lambda *given: mapped(*given[:3], donate=False))
    assert planted("digits_mlp fp32 1 dp", kept).train.donated == []


def needed(lowered: Lowered) -> Counter[tuple[str, Tensor]]:
    """What a step has to exchange, by the shapes of its leaves.

    All-reduced: the loss, gradients and the first device's statistics; and for each
    BatchNorm mean and variance, forwards and backwards. With fsdp a device gives its
    shard of a parameter, and takes its shard of the gradient.
    """
    dtype = "f64" if lowered.config.precision.name == "fp64" else "f32"
    sharded = lowered.config.parallel.name == "fsdp"
    exchanged = Counter([("all_reduce", Tensor(dtype, ()))])
    for name, shape in lowered.shapes.items():
        whole = Tensor(dtype, shape)
        axis = sharded_axis(shape, DEVICES) if sharded and is_trained(name) else None
        if axis is None:
            exchanged["all_reduce", whole] += 1
        else:
            part = [n // DEVICES if i == axis else n for i, n in enumerate(shape)]
            exchanged["all_gather", Tensor(dtype, tuple(part))] += 1
            exchanged["reduce_scatter", whole] += 1
        if name.endswith(".mean"):
            exchanged["all_reduce", whole] += 4
    return exchanged


def test_devices_exchange_what_the_shapes_of_the_leaves_say(lowered):
    assert lowered.train.exchanged == needed(lowered)


def test_other_sums_over_the_devices_would_be_seen(planted):
    def of_fp16(tree):
        halves = jax.tree.map(lambda x: x.astype("float16"), tree)
        return jax.tree.map(lambda x: jax.lax.psum(x, parallel.AXIS), halves)

    found = planted("digits_mlp fp32 1 dp", (exchange, "_sum", of_fp16))
    assert {tensor.dtype for _, tensor in found.train.exchanged} == {"f16"}


def multiplied(lowered: Lowered) -> set[tuple[str, str]]:
    """Dtypes of factors, with the precision that is asked for."""
    products = [o for step in both(lowered) for o in step.products]
    return {(x.dtype, p) for o in products for x in o.operands for p in o.precision}


def test_products_are_computed_as_the_precision_says(lowered):
    assert multiplied(lowered) == {PRECISIONS[lowered.config.precision.name]}


def test_products_of_another_precision_would_be_seen(planted):
    left_alone = (precision, "configure", lambda *_: None)
    assert multiplied(planted("digits_mlp fp32 1 dp", left_alone)) == {
        ("f32", "DEFAULT")
    }
    wide = (precision, "compute_dtype", lambda config: np.dtype("float32"))
    assert multiplied(planted("digits_mlp bf16 1 dp", wide)) == {("f32", "DEFAULT")}


def convolutions(lowered: Lowered) -> list[int]:
    return [len(step.named("convolution")) for step in both(lowered)]


def test_convolutions_are_the_librarys_and_gradients_are_summed_one_by_one(lowered):
    """A layer has one forwards, and one for each of two gradients, but for images."""
    count = sum(len(shape) == 4 for shape in lowered.shapes.values())
    assert convolutions(lowered) == [max(0, 3 * count - 1), count]
    chosen = [o for step in both(lowered) for o in step.named("case")]
    of_platform = {(o.branches, *o.results) for o in chosen if o.branches > 1}
    assert of_platform <= {(2, Tensor("i32", ()))}  # which one, and not both of them


def test_the_forms_for_cpus_would_be_seen(planted, monkeypatch):
    def for_a_cpu(*given, cpu, default):
        return cpu(*given)

    monkeypatch.setattr(layers, "PART_PIXELS", 64)  # else a batch of 16 is one part
    chosen = (jax.lax, "platform_dependent", for_a_cpu)
    found = planted("fashion_cnn fp32 1 dp", chosen)
    assert convolutions(found)[0] > 5
    assert sum(found.train.exchanged.values()) == 1
