"""What is refused for the devices that there are."""

import os

import jax
import pytest
import torch

import jax_impl.parallel
import jax_impl.precision
import torch_impl.parallel
import torch_impl.precision
from recipe.errors import ConfigError
from runtime.processes import Processes


def test_three_processes_on_two_gpus_are_refused_by_torch(make_config, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    third = Processes("torchrun", rank=2, count=3, local_rank=2, coordinator="h:1")
    config = make_config("train.global_batch_size=63", "platform=gpu")
    with pytest.raises(ConfigError, match="3 accelerators .* sees 2; use at most 2"):
        torch_impl.parallel.check(config, third)
    torch_impl.parallel.check(make_config("train.global_batch_size=63"), third)


def test_three_devices_where_two_gpus_exist_are_refused_by_jax(
    make_config, monkeypatch
):
    config = make_config("train.global_batch_size=63", "devices=3")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1] * 2)
    with pytest.raises(ConfigError, match="3 accelerators .* sees 2; use at most 2"):
        jax_impl.parallel.start(config, Processes())


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
