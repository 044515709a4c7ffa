"""What XLA is told where it may find a GPU, and what it has in force without that."""

import os

import pytest

from jax_impl import precision
from jax_impl.precision import FAST_ON_GPUS, choose_kernels

(FAST,) = FAST_ON_GPUS
OFF = FAST.replace("true", "false")
TUNED = "--xla_gpu_autotune_level=3"

# XLA reads its flags once, and ends a process that has one which it does not know.
IN_FORCE = """
from types import SimpleNamespace
import jax
from jaxlib._jax import CompileOptions
from jax_impl import precision
precision.jax_finds_gpus = lambda environ: True  # a plugin is installed
precision.choose_kernels(SimpleNamespace(platform="{platform}", deterministic=False))
jax.block_until_ready(jax.jit(lambda x: x + 1)(1))
options = CompileOptions()  # each is part of the one before, which must stay alive
build = options.executable_build_options
print(build.debug_options)
"""


@pytest.fixture
def options(run_python):
    """XLA's own options, as a run would have them: lines of `name: value`."""

    def options(platform: str, **variables: str) -> list[str]:
        done = run_python(["-c", IN_FORCE.format(platform=platform)], **variables)
        return (done.stdout or done.stderr).splitlines()

    return options


def test_xla_takes_the_flags_and_has_the_others_on_by_itself(options):
    found = options("auto")
    assert "xla_gpu_enable_latency_hiding_scheduler: true" in found
    for on in (
        *("xla_gpu_autotune_level: 4", "xla_gpu_triton_gemm_any: true"),
        *("xla_gpu_enable_command_buffer: FUSION", "xla_gpu_graph_min_graph_size: 5"),
        "xla_gpu_all_reduce_combine_threshold_bytes: 31457287",
    ):
        assert on in found


def test_without_them_collectives_are_not_hidden(options):
    found = options("cpu")
    assert "xla_gpu_autotune_level: 4" in found  # an option that is unset may be absent
    assert "xla_gpu_enable_latency_hiding_scheduler: true" not in found


def test_a_flag_that_xla_does_not_know_would_end_the_process(options):
    told = options("auto", XLA_FLAGS="--xla_gpu_hide_all_latency=true")
    assert "--xla_gpu_hide_all_latency=true" in "".join(told)
    assert FAST.replace("--", "").replace("=", ": ") not in told


@pytest.mark.parametrize(
    ("platform", "given", "told"),
    [
        ("auto", "", FAST),
        ("gpu", TUNED, f"{TUNED} {FAST}"),
        ("gpu", f"{TUNED} {OFF}", f"{TUNED} {OFF}"),  # the user knows better
        ("gpu", "/etc/xla.flags", "/etc/xla.flags"),  # a file that XLA reads
        ("cpu", TUNED, TUNED),
    ],
)
def test_flags_are_added_where_a_gpu_may_be_and_override_none(
    platform, given, told, make_config, monkeypatch
):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(precision, "jax_finds_gpus", lambda environ: True)
    for _ in range(2):  # the second time they are there
        choose_kernels(make_config(f"platform={platform}"))
        assert os.environ["XLA_FLAGS"] == told


def test_jax_for_cpus_gets_no_flag_of_gpus(make_config, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(precision, "jax_finds_gpus", lambda environ: False)
    choose_kernels(make_config("platform=auto"))
    assert os.environ["XLA_FLAGS"] == ""
