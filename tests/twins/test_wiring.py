"""On 256 devices a step exchanges what the projection assumes."""

import json

import pytest

from report.analysis.projection import BUCKET_BYTES, SHARDED, gradient_bytes
from tests.twins import wiring

DEVICES = 256
LOSS = 4  # bytes: its sum travels with the gradients


@pytest.fixture(scope="module")
def found(run_python):
    done = run_python([wiring.__file__, str(DEVICES)])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_jax_sums_all_gradients_in_one_all_reduce(found):
    expected = gradient_bytes(found["parameters"], "fp32")
    assert found["jax"] == [["all-reduce", expected + LOSS]]


def test_ddp_sums_all_gradients_in_buckets_no_larger_than_assumed(found):
    assert found["ddp"] == [["all-reduce", gradient_bytes(found["parameters"], "fp32")]]
    sizes = [size for _, size in found["deep ddp"]]
    assert sum(sizes) == gradient_bytes(found["deep parameters"], "fp32")
    assert len(sizes) > 1 and max(sizes[:-1]) < 1.5 * BUCKET_BYTES


def test_jax_gathers_parameters_once_and_scatters_their_gradients(found):
    names = [name for name, _ in found["jax fsdp"]]
    exchange = SHARDED["jax"]
    assert set(names) == {*exchange.forward, *exchange.backward, "all-reduce"}
    gathered, scattered, summed = (
        sum(size for name, size in found["jax fsdp"] if name == kind)
        for kind in ("all-gather", "reduce-scatter", "all-reduce")
    )
    # A bias of 10 does not divide; it and a norm's parts are summed beside the loss.
    whole = gradient_bytes(found["parameters"], "fp32")
    assert gathered == DEVICES * scattered == whole - 4 * 10
    assert summed == 4 * 10 + LOSS + 4 * names.count("all-gather")


def test_pytorch_gathers_parameters_for_forward_and_again_for_backward(found):
    names, sizes = zip(*found["fsdp"], strict=True)
    exchange = SHARDED["torch"]
    assert set(names) == {*exchange.forward, *exchange.backward}
    forward = sizes[: names.count("all-gather") // 2]
    gathered = [*forward, *reversed(forward)]
    assert list(sizes[: len(gathered)]) == gathered
    assert sum(forward) == found["padded"] == DEVICES * sum(sizes[len(gathered) :])
    # What the model ignores: axes shorter than the number of devices are padded.
    assert found["padded"] > gradient_bytes(found["parameters"], "fp32")


def test_every_collective_of_a_module_is_seen():
    module = """
      %a = (f32[8,2]{1,0}, f32[]) all-reduce-start(%x, %y), channel_id=1
      ROOT %b = bf16[16]{0} reduce-scatter(%z), dimensions={0}
      %c = f32[4] add(%p, %q)
    """
    assert wiring.collectives(module) == [("all-reduce", 68), ("reduce-scatter", 32)]
