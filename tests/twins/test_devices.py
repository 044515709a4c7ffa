"""What is refused for the devices that there are."""

import os
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

import jax_impl.parallel
import jax_impl.precision
import record.gpus
import torch_impl.parallel
import torch_impl.precision
from recipe.errors import ConfigError
from runtime.agreement import Ranks
from runtime.processes import Processes


def test_three_processes_on_two_gpus_are_refused_by_torch(make_config, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    third = Processes("torchrun", rank=2, count=3, local_rank=2, coordinator="h:1")
    config = make_config("train.global_batch_size=63", "platform=gpu")
    for asked in config, make_config("train.global_batch_size=63"):
        with pytest.raises(ConfigError, match="sees 2 .* rank 2 of 3 .* fewer process"):
            torch_impl.parallel.check(asked, third)


def test_three_devices_where_two_gpus_exist_are_refused_by_jax(
    make_config, monkeypatch
):
    config = make_config("train.global_batch_size=63", "devices=3")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    gpu = SimpleNamespace(platform="gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu, gpu])
    with pytest.raises(ConfigError, match="3 accelerators .* sees 2.*use at most 2"):
        jax_impl.parallel.start(config, Processes())


TASK = Processes("slurm", 3, 4, 3, "node1:20000", local_count=4)
OWN = {"CUDA_VISIBLE_DEVICES": "3", "SLURM_GPUS_PER_TASK": "1"}
# A task's environment, the GPUs that it sees, and the one that it takes.
SEEN = {"all": ({}, 4, 3), "its own": (OWN, 1, 0)}


@pytest.fixture(params=SEEN)
def seen(request, monkeypatch):
    """The GPUs that the fourth task of a node sees, and the one that it is to take."""
    environ, count, own = SEEN[request.param]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return count, own


def alone_in_group(monkeypatch):
    """Without the other ranks: neither a process group, nor its first collective."""
    twin = torch_impl.parallel
    monkeypatch.setattr(twin.dist, "init_process_group", lambda *_, **__: None)
    ranks = Ranks(0, 1, lambda values: np.array([values]), lambda message: message)
    monkeypatch.setattr(twin.World, "ranks", ranks)


def test_a_task_takes_its_own_gpu_in_torch(make_config, monkeypatch, seen):
    count, own = seen
    chosen = []
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    twin = torch_impl.parallel
    for name in "_accelerator_type", "_store", "PrefixStore", "gloo_interface":
        monkeypatch.setattr(twin, name, lambda *_: "cuda")
    alone_in_group(monkeypatch)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    world = twin.start(make_config("train.global_batch_size=64"), TASK)
    assert (world.device, chosen) == (torch.device("cuda", own), [own])


@pytest.mark.parametrize("given", [None, "ib0"])
def test_gloo_of_several_nodes_is_given_the_interface_unless_the_user_is_first(
    make_config, monkeypatch, given
):
    twin = torch_impl.parallel
    for name in "_store", "PrefixStore", "gloo_interface":
        monkeypatch.setattr(twin, name, lambda *_: "eth7")
    alone_in_group(monkeypatch)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", given or "")
    if given is None:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    config = make_config("train.global_batch_size=64", "platform=cpu")
    twin.start(config, TASK)
    assert os.environ["GLOO_SOCKET_IFNAME"] == (given or "eth7")


@pytest.fixture
def joined(monkeypatch):
    """What `jax.distributed.initialize` is given, in a process that has a CPU alone."""
    given, twin, here = {}, jax_impl.parallel, jax.devices()[:1]
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **k: given.update(k))
    monkeypatch.setattr(jax, "local_devices", lambda process_index=0: here)
    monkeypatch.setattr(twin.multihost_utils, "process_allgather", lambda x: x)
    monkeypatch.setattr(twin, "Mesh", lambda devices, axes: None)
    monkeypatch.setattr(twin, "list_gpus", lambda: [[f"GPU-{n}"] for n in range(4)])
    monkeypatch.setattr(twin, "jax_finds_gpus", lambda environ: True)
    monkeypatch.setenv("no_grpc_proxy", "")
    return given


def test_a_task_takes_its_own_gpu_in_jax(make_config, joined, seen):
    config = make_config("train.global_batch_size=64", "platform=gpu")
    jax_impl.parallel.start(config, TASK)
    assert joined["local_device_ids"] == [seen[1]]


@pytest.mark.parametrize(
    "coordinator, bound",
    {"node1:20000": "[::]:20000", "127.0.0.1:20000": "127.0.0.1:20000"}.items(),
)
def test_jaxs_coordinator_listens_for_other_nodes_where_there_are_any(
    make_config, joined, coordinator, bound
):
    config = make_config("train.global_batch_size=64", "platform=cpu")
    jax_impl.parallel.start(config, replace(TASK, coordinator=coordinator))
    assert joined["coordinator_bind_address"] == bound


@pytest.mark.parametrize("twin", [torch_impl.parallel, jax_impl.parallel])
def test_neither_twin_takes_the_cpu_silently_where_there_are_gpus(
    make_config, monkeypatch, twin
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(record.gpus, "list_gpus", lambda: [["GPU-0"]])
    with pytest.raises(ConfigError, match="would train on the CPU.*platform=cpu"):
        twin.check(make_config(), Processes())
    twin.check(make_config("platform=cpu"), Processes())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    twin.check(make_config(), Processes())


def test_a_plugin_of_jax_that_fails_is_noticed(make_config, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(record.gpus, "list_gpus", lambda: [["GPU-0"]])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(ConfigError, match="EXTRAS=dev,cuda"):
        jax_impl.parallel.start(make_config(), Processes())


def test_fp64_is_refused_by_torch_on_a_device_without_it(make_config):
    config = make_config("precision=fp64")
    torch_impl.precision.configure(config, torch.device("cpu"))
    # This build has no Metal at all; a Mac's has it, and refuses float64 on it.
    with pytest.raises(ConfigError, match="precision=fp64 is not available on .*mps"):
        torch_impl.precision.configure(config, torch.device("mps"))


class Metal:
    platform = "METAL"

    def __str__(self):
        return "METAL:0"


def test_fp64_is_refused_by_jax_on_a_device_without_it(make_config, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    jax_impl.precision.configure(make_config("precision=fp64"), jax.devices()[0])
    with pytest.raises(ConfigError, match="precision=fp64 is not available on .*METAL"):
        jax_impl.precision.configure(make_config("precision=fp64"), Metal())


def test_fp32_is_true_fp32_in_every_backend_of_torch(make_config):
    torch.backends.fp32_precision = "tf32"
    torch_impl.precision.configure(make_config(), torch.device("cpu"))
    for backend, operation in (
        ("cuda", "matmul"),
        ("cuda", "conv"),
        ("mkldnn", "conv"),
    ):
        found = torch._C._get_fp32_precision_getter(backend, operation)
        assert found == "ieee", (backend, operation)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_jax_multiplies_in_what_the_precision_says(make_config, precision):
    jax_impl.precision.configure(
        make_config(f"precision={precision}"), jax.devices()[0]
    )
    x = jax.numpy.ones((1, 4, 4, 1))

    def products(x):
        window = jax.lax.conv(x, x, (1, 1), "SAME")
        return window, x[0, :, :, 0] @ x[0, :, :, 0]

    text = jax.jit(products).lower(x).as_text()
    assert text.count("precision_config = [#stablehlo<precision HIGHEST>") == 1
    assert "precision = [HIGHEST, HIGHEST]" in text


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_kernels_are_chosen_before_a_framework_starts(
    make_config, monkeypatch, wanted
):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=4")
    config = make_config(f"deterministic={str(wanted).lower()}", "platform=cpu")
    try:
        torch_impl.parallel.start(config, Processes())
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert torch.backends.cudnn.deterministic == wanted
        assert (os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8") == wanted
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    jax_impl.parallel.start(config, Processes())
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[0] == "--xla_gpu_autotune_level=4"
    assert ("--xla_gpu_exclude_nondeterministic_ops=true" in flags) == wanted


def test_cuda_graphs_are_refused_with_micro_batches(make_config, monkeypatch):
    config = make_config("compile=max", "train.grad_accum_steps=2", "platform=gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="CUDA graphs reuse"):
        torch_impl.parallel.check(config, Processes())


def test_cpus_are_not_counted_as_gpus_of_a_step(make_config, monkeypatch):
    """Where SLURM gave the step fewer GPUs than JAX has CPU devices."""
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    monkeypatch.setenv("SLURM_GPU_BIND", "none")
    config = make_config("devices=2", "platform=cpu", "train.global_batch_size=64")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    assert jax_impl.parallel.start(config, Processes()).size == 2
