"""The host issues PyTorch's step on a GPU and waits for nothing that it computes.

Shown without a GPU, by tensors of the device "meta": another than the host's, with
shapes and dtypes and no values, so that whatever needs one fails. Fake CUDA tensors
would do for all but the backward pass, for which autograd asks the driver (torch 2.14);
the models' forward passes take them. Kernels, and what they allocate, are not seen.
"""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from recipe.loss_scale import initial_loss_scale
from recipe.pixels import pixel_affine
from tests.conftest import exhaustive_but
from tests.twins.small_models import MODELS, one_block_a_stage
from tests.twins.steps import micro_batches, random_arrays, random_weights
from torch_impl import ema, model, optim, parallel, step, weights

GPU = parallel.World(0, 1, 1, torch.device("meta"))
PRECISIONS = ["fp32", "tf32", "bf16", "fp16"]
CASES = [(name, precision) for name in MODELS for precision in PRECISIONS]
KEPT = [("mlp", "fp16"), ("resnet9", "bf16"), ("vit_tiny", "fp32")]
EVERYTHING = [
    *("optim=adamw", "optim.ema_decay=0.9", "optim.clip_norm=1"),
    "train.grad_accum_steps=2",
]
OPTIMIZER = importlib.import_module("torch.optim.optimizer")
aten = torch.ops.aten


def _supported():
    """Devices whose optimizers are fused."""
    return ["cuda", "meta"]


READS = {aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.nonzero, aten.equal}
COPIES = {aten._to_copy, aten.copy_, aten._copy_from}
INDEXED = {aten.index, aten.index_put, aten.index_put_}


class HostWaits(AssertionError):
    """A step that needs a number of the device, or copies between it and the host."""


class Watched(TorchDispatchMode):
    """Refuses what waits; keeps the names and first tensors of all operations."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet, kwargs = func.overloadpacket, kwargs or {}
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        self.seen.append((packet, given, kwargs))
        places = {tensor.device.type for tensor in given}
        if packet in COPIES and kwargs.get("device") is not None:
            places.add(torch.device(kwargs["device"]).type)
        indices = args[1] if packet in INDEXED else []
        if any(i is not None and i.dtype == torch.bool for i in indices):
            places.add("cpu")  # which allocates what a mask selects
        if packet in READS or (packet in COPIES | INDEXED and len(places) > 1):
            raise HostWaits(f"{func} on {places}")
        if packet is aten._fused_sgd_:
            return None  # it has no meta kernel
        return func(*args, **kwargs)


def from_the_host(make):
    """It, with the copy to the device that it makes unseen where that is "meta"."""

    def made(given, device=None, **how):
        return make(given, **how).to(device)

    return made


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """And kernels take lists of tensors, as on a GPU."""
    monkeypatch.setattr(OPTIMIZER, "_get_fused_kernels_supported_devices", _supported)
    monkeypatch.setattr(
        torch.utils._foreach_utils, "_get_foreach_kernels_supported_devices", _supported
    )
    for maker in "tensor", "as_tensor":
        monkeypatch.setattr(torch, maker, from_the_host(getattr(torch, maker)))
    one_block_a_stage(monkeypatch)


def watched_step(config, world=GPU):
    """The operations of the second training step on a fake GPU."""
    held = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
    batch = np.arange(config.train.global_batch_size, dtype=np.int32)[None]
    ((rows, draws, keys),) = micro_batches(config, batch, 0, 1)
    arrays = (*random_arrays(config), *pixel_affine(config))
    data = step.DeviceData(*parallel.replicate(arrays, world))
    net = model.build_model(config)
    weights.load_weights(net, held, world)
    optimizer = optim.build_optimizer(config, net)
    average = ema.build_average(config, net, held, None, world)
    placed = parallel.replicate((rows, draws, keys), world)
    scale = parallel.replicate(initial_loss_scale(config), world)
    for _ in range(2):
        with Watched() as watched:
            given = config, net, optimizer, data, *placed, 0.1, scale, world
            scale, _ = step.train_step(*given, average)
    return watched.seen


@pytest.mark.parametrize(("name", "precision"), exhaustive_but(KEPT, CASES))
def test_no_step_on_a_gpu_makes_the_host_wait(name, precision, make_config):
    seen = watched_step(make_config(*MODELS[name], f"precision={precision}"))
    assert any(packet is aten._fused_sgd_ for packet, *_ in seen)


@pytest.mark.parametrize("precision", exhaustive_but(["fp16"], ["fp32", "fp16"]))
def test_nor_does_what_a_recipe_may_add(precision, make_config):
    added = [*EVERYTHING, "data.augment.flip=true", "data.augment.pad_crop=1"]
    config = make_config(*MODELS["resnet9"], *added, f"precision={precision}")
    assert any(packet is aten._fused_adamw_ for packet, *_ in watched_step(config))
    dropping = make_config(*MODELS["mlp"], "model.dropout=0.3")
    watched_step(dropping)


WAITS = {
    "item": lambda norm: norm.item(),
    "a condition": lambda norm: norm if norm.isfinite() else 0,
    "a copy to the host": lambda norm: norm.cpu(),
    "a number from the host": lambda norm: torch.tensor(1.0, device=norm.device),
    "a mask": lambda norm: norm[norm > 0],
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_planted_wait_is_found(wait, make_config, monkeypatch):
    def clip(config, gradients, norm):
        WAITS[wait](norm)

    monkeypatch.setattr(step, "clip_gradients", clip)
    with pytest.raises(HostWaits):
        watched_step(make_config(*MODELS["mlp"]))


LISTS = {aten.mul_, aten.add_, aten.sub_, aten.lerp_, aten.div_, aten.where, aten.mul}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_follows_the_backward_pass_is_as_many_kernels_for_any_depth(
    precision, make_config
):
    """Scaling, norm, clipping, update and average: each one kernel over a list."""
    counts = []
    for hidden in "[8]", "[8,8,8,8]":
        given = *MODELS["mlp"], f"model.hidden={hidden}", f"precision={precision}"
        added = [e for e in EVERYTHING if "accum" not in e]
        config = make_config(*given, *added)
        seen = [packet for packet, *_ in watched_step(config, replace(GPU, size=2))]
        counts.append(len(seen) - seen.index(aten._foreach_mul_))
    assert counts[0] == counts[1]


def test_batch_norm_on_a_gpu_reads_and_writes_sixteen_bits(make_config):
    config = make_config(*MODELS["resnet9"], "precision=bf16")
    held = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
    gpu = parallel.World(0, 1, 1, torch.device("cuda", 0))
    for place, casts in (gpu, 0), (GPU, 8):
        with FakeTensorMode():
            net = model.build_model(config)
            weights.load_weights(net, held, place)
            images = parallel.replicate(np.zeros((8, 3, 8, 8), np.float32), place)
            with Watched() as watched:
                net(images)
        wide = [
            given[0].shape
            for packet, given, kwargs in watched.seen
            if packet is aten._to_copy and kwargs["dtype"] == torch.float32
        ]
        assert len(wide) == casts  # its norms


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_into_batch_norm_are_what_a_cast_around_it_gives(dtype, training):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 6, 5, 5, generator=generator).mul(3).add(5).to(dtype)
    x = x.to(memory_format=torch.channels_last)
    found = []
    for cast in False, True:
        leaf = x.clone().requires_grad_()
        held = [torch.linspace(0.5, 2, 6).requires_grad_() for _ in range(2)]
        mean, var = torch.zeros(6), torch.ones(6)
        given = leaf.float() if cast else leaf
        normal = torch.nn.functional.batch_norm(given, mean, var, *held, training)
        normal.to(dtype).float().square().sum().backward()
        gradients = [leaf.grad, *(h.grad for h in held)]
        found.append([normal.to(dtype), mean, var, *gradients])
    own, around = found
    # The same statistics, in fp32 and rounded once; only their sums are in another
    # order, for which a CPU keeps to the cast.
    for a, b in zip(own, around, strict=True):
        assert a.dtype == b.dtype
        step = 1e-6 if a.dtype == torch.float32 else torch.finfo(dtype).eps
        torch.testing.assert_close(a, b, rtol=step, atol=step * 1e-2)
