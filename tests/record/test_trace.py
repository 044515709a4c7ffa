"""A trace on its way to a file and back."""

import numpy as np
import pytest

from recipe.errors import RecordError
from record.trace import Trace, read_trace, to_bytes, trace_file


@pytest.fixture
def trace():
    outputs = {name: np.full(2, 1.0 * i) for i, name in enumerate(["z", "a", "loss"])}
    return Trace(
        step=3,
        weights={"z.kernel": np.ones((2, 3))},
        outputs=outputs,
        output_gradients={"z": np.zeros((1, 2, 2, 1), np.float32)},
        gradients={"z.kernel": np.ones((2, 3))},
        kinds={"z": "Conv2d", "a": "Linear"},
    )


def test_a_trace_survives_its_file_in_forward_order(trace, tmp_path):
    trace_file(tmp_path, 3).write_bytes(to_bytes(trace))
    back = read_trace(tmp_path, 3)
    assert list(back.outputs) == ["z", "a", "loss"]  # not the alphabet's
    assert (back.step, back.kinds) == (3, trace.kinds)
    for section in ("weights", "outputs", "output_gradients", "gradients"):
        for name, array in getattr(trace, section).items():
            kept = getattr(back, section)[name]
            assert kept.dtype == array.dtype
            np.testing.assert_array_equal(kept, array)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"])
def test_what_is_no_trace_is_refused_by_name(content, tmp_path):
    if content is not None:
        trace_file(tmp_path, 3).write_bytes(content)
    with pytest.raises(RecordError, match=r"trace-3\.safetensors"):
        read_trace(tmp_path, 3)
