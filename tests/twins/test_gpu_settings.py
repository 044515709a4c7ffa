"""What PyTorch's twin sets for a GPU, seen without one."""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from recipe.errors import ConfigError
from runtime.processes import Processes
from tests.twins.conftest import TORCH
from tests.twins.small_models import MODELS
from tests.twins.steps import random_arrays, random_weights, torch_steps
from torch_impl import model as torch_model
from torch_impl import optim, parallel, precision, weights

CUDA = torch.device("cuda", 1)
HOUR = timedelta(minutes=60)


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_nccl_connects_all_ranks_at_the_start_and_waits_an_hour_for_them(
    launcher, make_config, monkeypatch
):
    calls = []

    def meet(url, *ranks, timeout):
        calls.append(("store", timeout))
        yield dist.HashStore(), *ranks

    def join(backend, *, device_id, timeout, **_):
        calls.append((backend, device_id, timeout))

    ranks = SimpleNamespace(gather=lambda values: calls.append("a collective"))
    monkeypatch.setattr(parallel, "rendezvous", meet)
    monkeypatch.setattr(parallel, "Ranks", lambda *_: ranks)
    monkeypatch.setattr(parallel.dist, "init_process_group", join)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # else it stays set for other tests
    second = Processes(launcher, rank=1, count=2, local_rank=1, coordinator="node:1")
    parallel.start(make_config(), second)
    assert calls == [("store", HOUR), ("nccl", CUDA, HOUR), "a collective"]


# What inductor reads: the key of its autotuning cache (codecache.py), the flags of a
# convolution's template (kernel/conv.py), ROCm's (codegen/rocm), and the newer ones.
GETTERS = """
import warnings, torch
from torch_impl.precision import _round_products_to_tf32
from torch._inductor.codecache import PersistentCache
warnings.simplefilter("ignore")
for tf32 in {order}:
    {set}
    cache = PersistentCache()
    cache.lookup([], "op", "inputs", None)
    print(
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision, torch.backends.fp32_precision,
        torch._C._get_fp32_precision_getter("mkldnn", "matmul"),
    )
"""
OLD = 'torch.backends.fp32_precision = "tf32" if tf32 else "ieee"'
HIGH = "high True True tf32 tf32 tf32 tf32"
HIGHEST = "highest False False ieee ieee ieee ieee"


def read_by_inductor(run_python, setting, order):
    return run_python(["-c", GETTERS.format(set=setting, order=order)])


def test_inductor_can_read_the_precision_of_products(run_python):
    done = read_by_inductor(
        run_python, "_round_products_to_tf32(tf32)", [True, False, True]
    )
    assert done.stdout.splitlines() == [HIGH, HIGHEST, HIGH], done.stderr


def test_the_newer_setting_alone_is_an_error_to_it(run_python):
    done = read_by_inductor(run_python, OLD, [True])
    assert "mix of the legacy and new APIs" in done.stderr


def test_kernels_are_autotuned_unless_they_must_be_deterministic(make_config):
    try:
        for wanted in True, False:
            config = make_config(f"deterministic={str(wanted).lower()}")
            precision.choose_kernels(config)
            assert torch.backends.cudnn.benchmark != wanted
            assert torch.backends.cudnn.deterministic == wanted
            gpu = parallel.World(0, 1, 1, CUDA)
            assert precision.settings(config, gpu)["autotuning"] != wanted
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def test_batches_are_pinned_for_an_asynchronous_copy(monkeypatch):
    asked = []
    make = torch.tensor

    def note(array, pin_memory):
        asked.append(pin_memory)
        return make(array)

    monkeypatch.setattr(torch, "tensor", note)
    rows = np.arange(3, dtype=np.int32)
    parallel.place_batch((rows, None), parallel.World(0, 1, 1, torch.device("meta")))
    placed, none = parallel.place_batch((rows, None), TORCH)
    assert (asked, none) == ([True, False], None)
    rows[0] = 7  # the tensor has memory of its own
    assert placed.tolist() == [0, 1, 2]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_kernels_gradients_and_optimizer_state_are_channels_last(
    optimizer, make_config, monkeypatch
):
    kept = []
    build = optim.build_optimizer
    monkeypatch.setattr(
        optim, "build_optimizer", lambda *given: kept.append(build(*given)) or kept[0]
    )
    config = make_config(*MODELS["resnet9"], f"optim={optimizer}")
    held = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
    batch = np.arange(8, dtype=np.int32)[None]
    torch_steps(config, held, random_arrays(config), batch, 0.1, TORCH)
    kernels = 0
    for parameter, state in kept[0].state.items():
        for tensor in (parameter, parameter.grad, *state.values()):
            if tensor.ndim == 4:
                kernels += 1
                assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert kernels >= 8 * 3


def test_images_stay_channels_last_through_a_model(make_config):
    config = make_config(*MODELS["resnet18"])
    held = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
    model = torch_model.build_model(config)
    weights.load_weights(model, held, TORCH)
    layouts = []
    for module in model.modules():
        module.register_forward_hook(
            lambda _, given, out: layouts.append(
                out.ndim != 4 or out.is_contiguous(memory_format=torch.channels_last)
            )
        )
    model(torch.randn(4, 8, 8, 3).permute(0, 3, 1, 2))
    assert len(layouts) > 40 and all(layouts)


def test_cuda_graphs_are_refused_where_there_are_none(make_config, monkeypatch):
    on_cpu = make_config("compile=max", "platform=cpu")
    with pytest.raises(ConfigError, match="compile=max .* no GPU; use compile=true"):
        parallel.check(on_cpu, Processes())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sharded = make_config("compile=max", "platform=auto", "parallel=fsdp")
    with pytest.raises(ConfigError, match="compile=max .* parallel=fsdp"):
        parallel.check(sharded, Processes())
    parallel.check(make_config("compile=max", "platform=auto"), Processes())


@pytest.mark.parametrize(
    ("given", "mode"), [("true", None), ("max", "reduce-overhead")]
)
def test_compile_max_asks_for_cuda_graphs(given, mode, make_config, monkeypatch):
    modes = []

    def compile(module, *, dynamic, mode):
        modes.append(mode)

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    config = make_config(*MODELS["mlp"], f"compile={given}", "optim.ema_decay=0.9")
    held = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
    batch = np.arange(8, dtype=np.int32)[None]
    torch_steps(config, held, random_arrays(config), batch, 0.1, TORCH)
    assert modes == [mode, mode]  # of the model, and of its average
