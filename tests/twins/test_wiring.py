"""On 256 devices a step exchanges what the projection assumes."""

import json

import pytest

from report.projection import BUCKET_BYTES, gradient_bytes
from tests.twins import wiring

LOSS = 4  # bytes: its sum travels with the gradients


@pytest.fixture(scope="module")
def found(run_python):
    done = run_python([wiring.__file__, "256"])
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


def test_every_collective_of_a_module_is_seen():
    module = """
      %a = (f32[8,2]{1,0}, f32[]) all-reduce-start(%x, %y), channel_id=1
      ROOT %b = bf16[16]{0} reduce-scatter(%z), dimensions={0}
      %c = f32[4] add(%p, %q)
    """
    assert wiring.collectives(module) == [("all-reduce", 68), ("reduce-scatter", 32)]
