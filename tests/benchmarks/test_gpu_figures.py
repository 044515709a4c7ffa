"""How `make gpu` judges products, HLO and profiles, which only a GPU gives in full."""

import numpy as np
import pytest

from benchmarks.gpu import products
from benchmarks.gpu.busy import busy_seconds
from benchmarks.gpu.hlo import is_product, loops_of
from benchmarks.gpu.speed import times

FP32, TF32 = 1e-6, 3e-4  # relative errors


def rounded(array: np.ndarray, bits: int) -> np.ndarray:
    """To as many bits of the mantissa, ties aside."""
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.round(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)


@pytest.mark.parametrize(("bits", "precision"), [(10, "tf32"), (23, "fp32")])
def test_factors_of_as_many_bits_have_the_error_of_their_precision(bits, precision):
    of = {name: rounded(x, bits) for name, x in products.operands().items()}
    found = products.expected() | {"matmul": of["a"] @ of["b"]}
    error = products.errors(found)["matmul"]
    other = {"tf32": "fp32", "fp32": "tf32"}[precision]
    errors = {"matmul": error, "convolution": error}
    assert products.wrong(precision, errors) == []
    assert len(products.wrong(other, errors)) == 2


@pytest.mark.parametrize(
    ("precision", "matmul", "convolution", "said"),
    [
        ("fp32", FP32, FP32, []),
        ("fp32", TF32, FP32, ["matmul: 3.0e-04 is above 5e-05"]),
        ("fp32", float("nan"), FP32, ["matmul: nan is above 5e-05"]),
        ("tf32", TF32, TF32, []),
        ("tf32", TF32, FP32, ["convolution: 1.0e-06 is below 5e-05, so TF32 is off"]),
        ("tf32", TF32, 0.1, ["convolution: 1.0e-01 is above 0.005"]),
    ],
)
def test_an_error_tells_whether_tf32_was_used(precision, matmul, convolution, said):
    errors = {"matmul": matmul, "convolution": convolution}
    assert products.wrong(precision, errors) == said


def test_loops_and_a_librarys_products_are_found_in_hlo():
    call = '%c = f32[2]{0} custom-call(%a), custom_call_target="__cublas$gemm"'
    loop = "  %while.5 = (s32[]) while(%tuple), condition=%test, body=%body"
    assert is_product(call) and not is_product(loop)
    assert loops_of(f"ENTRY %main () {{\n{call}\n{loop}\n}}") == [loop.strip()]


def event(begin: float, seconds: float, **of: object) -> dict:
    return {
        "ph": "X",
        "ts": begin,
        "dur": seconds,
        "pid": 1,
        "tid": 7,
        "name": "k",
        **of,
    }


def test_a_gpu_is_busy_while_at_least_one_kernel_or_copy_runs():
    kernels = [event(0, 4, cat="kernel"), event(2, 4, cat="gpu_memcpy", tid=8)]
    host = event(0, 100, cat="cpu_op")
    assert busy_seconds([host, event(10, 1, cat="kernel"), *kernels]) == 7e-6
    assert busy_seconds([host]) is None


def test_in_xlas_profiles_a_gpus_streams_count_and_not_its_summaries():
    meta = {"ph": "M", "pid": 1}
    stream, modules = ({"name": name} for name in ("Stream #13", "XLA Modules"))
    events = [
        meta | {"name": "process_name", "args": {"name": "/device:GPU:0"}},
        meta | {"name": "thread_name", "tid": 7, "args": stream},
        meta | {"name": "thread_name", "tid": 8, "args": modules},
        event(0, 3),
        event(0, 50, tid=8),
        event(0, 90, pid=2),
    ]
    assert busy_seconds(events) == 3e-6
    assert busy_seconds(events[:3] + events[4:]) is None


def window(steps: int, seconds: float, measured: bool) -> dict:
    parts = {"dispatch_seconds": seconds / 4, "data_seconds": seconds / 8}
    return {"steps": steps, "seconds": seconds, "measured": measured, **parts}


def test_a_gpu_is_idle_for_the_rest_of_a_step_that_was_not_profiled():
    trained = [window(4, 9.0, False), window(2, 5.0, False)]  # slow, as it is profiled
    timed = [window(10, seconds, True) for seconds in (1.0, 9.0, 0.8)]
    assert times([*trained, *timed], busy=0.15) == {
        **{"step_ms": 100.0, "host_ms": 25.0, "data_ms": 12.5},
        **{"busy_ms": 75.0, "idle_fraction": 0.25},
    }
    assert times([*trained, *timed], busy=None)["idle_fraction"] is None
    assert times([*trained, *timed], busy=0.5)["idle_fraction"] == 0
