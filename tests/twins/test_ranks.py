"""The twins over two devices and four: the same numbers as over one."""

import re
import socket

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jax_impl import exchange as jax_exchange
from jax_impl import step as jax_step
from jax_impl.parallel import AXIS, World
from recipe.execution import Strategy
from recipe.prefixes import is_frozen
from report.parity.differences import leaf_differences, relative_difference
from runtime.processes import Processes
from tests.conftest import exhaustive_but
from tests.twins import two_ranks
from tests.twins.conftest import TORCH
from tests.twins.steps import (
    jax_call,
    jax_steps,
    random_arrays,
    random_weights,
    torch_steps,
)
from tests.twins.two_ranks import CASES, OVERFLOW, case
from torch_impl.parallel import _store

FP64 = 1e-10  # the contract's, over many steps


@pytest.fixture(scope="module")
def two_torch_ranks(request, run_python, tmp_path_factory):
    """Case -> the metrics of each step in PyTorch on two ranks, and its weights.

    Of the cases that this session asks for.
    """
    folder = tmp_path_factory.mktemp("ranks")
    cases = [getattr(item, "callspec", None) for item in request.session.items]
    asked = {case.params.get("name") for case in cases if case} & CASES.keys()
    ended = run_python(
        [
            *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(two_ranks.__file__, folder, *sorted(asked)),
        ],
        OMP_NUM_THREADS="1",
    )
    assert ended.returncode == 0, ended.stderr

    def of(name):
        weights = dict(np.load(folder / f"{name}.npz"))
        return weights.pop("seen"), weights

    return of


def jax_world(devices, parallel):
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))
    return World(0, 1, devices, mesh, Strategy(parallel))


def in_torch(name):
    config, *given = case(name)
    return torch_steps(config, *given, TORCH)


def in_jax(name, devices, parallel=None):
    config, *given = case(name)
    return jax_steps(
        config, *given, jax_world(devices, parallel or config.parallel.name)
    )


ONE, TWO, FOUR, MAPPED = (1, None), (2, None), (4, None), (2, "pmap")


def ways(kept, of):
    """Names of cases, each with JAX's devices and its strategy if that is another.

    Args:
      kept: those of `make test`.
      of: all ways of each name.
    """
    cases = [(name, way) for name in of for way in of[name]]
    return pytest.mark.parametrize(
        ("name", "way"),
        exhaustive_but(kept, cases),
        ids=lambda of: of if isinstance(of, str) else f"{of[0]}{of[1] or ''}",
    )


def assert_same(one, other, bound):
    assert relative_difference(one[0], other[0]).max() <= bound
    assert max(leaf_differences(one[1], other[1]).values()) <= bound


@ways(
    [("normed", TWO), ("normed fsdp", TWO)],
    {
        "normed": [TWO, FOUR],
        "normed fsdp": [TWO, FOUR],
        "one micro-batch": [TWO, FOUR],
        "adamw fsdp": [TWO, FOUR],
    },
)
def test_steps_with_batch_norm_are_those_of_one_device(name, way, two_torch_ranks):
    alone = in_torch(name)
    assert_same(two_torch_ranks(name), alone, FP64)
    assert_same(in_jax(name, *way), alone, FP64)


def test_pmap_accumulates_as_one_device():
    assert_same(in_jax("normed", 2, "pmap"), in_torch("normed"), FP64)


@ways(
    [("averaged", TWO)],
    {
        "averaged": [ONE, TWO, FOUR, MAPPED],
        "averaged fsdp": [ONE, TWO, FOUR],
    },
)
def test_the_average_of_the_weights_is_that_of_one_device(name, way, two_torch_ranks):
    alone = in_torch(name)
    assert "average of stem.kernel" in alone[1]
    assert_same(two_torch_ranks(name), alone, FP64)
    assert_same(in_jax(name, *way), alone, FP64)


@ways(
    [("frozen", TWO)],
    {
        "frozen": [ONE, TWO, FOUR, MAPPED],
        "frozen fsdp": [ONE, TWO, FOUR],
        "frozen blocks fsdp": [ONE, TWO, FOUR],
    },
)
def test_frozen_layers_keep_their_bits_at_every_world_size(name, way, two_torch_ranks):
    config, weights, *_ = case(name)
    alone = in_torch(name)
    for run in two_torch_ranks(name), in_jax(name, *way):
        assert_same(run, alone, FP64)
        for leaf, array in weights.items():
            kept = array.tobytes() == run[1][leaf].tobytes()
            assert kept == is_frozen(config, leaf), leaf


@ways(
    [("local norms", TWO), ("local norms", MAPPED)],
    {
        "local norms": [TWO, MAPPED],
        "local norms fsdp": [TWO, MAPPED],
        "averaged local norms": [TWO, MAPPED],
    },
)
def test_statistics_of_each_device_are_those_of_each_rank(name, way, two_torch_ranks):
    ranks = two_torch_ranks(name)
    assert_same(in_jax(name, *way), ranks, FP64)
    # They are others than the global batch's.
    assert relative_difference(ranks[0], in_torch(name)[0]).max() > 1e-3


@ways(
    [("fp16", FOUR)],
    {
        "fp16": [ONE, TWO, FOUR, MAPPED],
        "fp16 fsdp": [ONE, TWO, FOUR],
        "fp16 averaged fsdp": [ONE, TWO, FOUR],
        "fp16 frozen": [ONE, TWO, FOUR],
    },
)
def test_the_loss_scale_is_the_same_at_every_world_size(name, way, two_torch_ranks):
    alone, _ = in_torch(name)
    assert np.flatnonzero(alone[:, 3]).tolist() == [OVERFLOW]
    for seen, end in two_torch_ranks(name), in_jax(name, *way):
        np.testing.assert_array_equal(seen[:, 2:], alone[:, 2:])
        assert all(np.isfinite(array).all() for array in end.values())


@ways(
    [("clipped", TWO)],
    {
        "clipped": [TWO, FOUR],
        "clipped fsdp": [TWO, FOUR],
    },
)
def test_clipped_fp16_steps_are_alike_at_every_world_size(name, way, two_torch_ranks):
    alone, weights = in_torch(name)
    assert (alone[:, 1] > 0.5).all()  # all are clipped
    for seen, end in two_torch_ranks(name), in_jax(name, *way):
        assert relative_difference(seen, alone).max() <= 2e-2
        assert max(leaf_differences(end, weights).values()) <= 2e-2


@ways(
    [("own dropping", FOUR)],
    {
        "dropping": [ONE, TWO, FOUR],
        "dropping fsdp": [ONE, TWO, FOUR],
        "own dropping": [ONE, TWO, FOUR],
        "own dropping fsdp": [ONE, TWO, FOUR],
    },
)
def test_the_world_size_moves_no_dropped_unit(name, way, two_torch_ranks):
    alone, bound = in_torch(name), FP64 if "fsdp" in name else 1e-12
    for run in two_torch_ranks(name), in_jax(name, *way):
        assert_same(run, alone, bound)


@pytest.mark.parametrize(
    "name", exhaustive_but(["own dropping"], ["dropping", "own dropping"])
)
def test_pmap_drops_the_units_that_one_device_does(name):
    assert_same(in_jax(name, 2, "pmap"), in_torch(name), 1e-12)


def summed(precision, parallel, devices=2):
    """The dtypes of what the compiled step sums over devices."""
    config, *given = case("normed", f"precision={precision}", f"parallel={parallel}")
    world = jax_world(devices, parallel)
    step, state, others = jax_call(config, *given, world)
    if world.mapped:
        jitted = jax.pmap(step, AXIS, devices=list(world.mesh.devices.flat))
    else:
        jitted = jax.jit(step)
    # Kernels are optimised after what is read here.
    options = {"xla_backend_optimization_level": 0}
    text = jitted.lower(state, *others[0]).compile(options).as_text()
    sums = re.findall(r"= (.*?) (?:all-reduce|reduce-scatter)(?:-start)?\(", text)
    return set(re.findall(r"([a-z]+\d+)\[", " ".join(sums)))


@pytest.mark.parametrize("parallel", ["dp", "fsdp", "pmap"])
def test_gradients_are_summed_over_devices_in_fp32(parallel):
    assert summed("fp16", parallel) == {"f32"}


def update_in_bf16(make_config, devices, parallel="dp"):
    """What a step adds to each weight: of two devices, or of two micro-batches."""
    recipe = "experiment=digits_mlp", "precision=bf16"
    config = make_config(*recipe, f"train.grad_accum_steps={2 // devices}")
    start = {n: w.astype(np.float32) for n, w in random_weights(config).items()}
    rows = np.arange(8, dtype=np.int32)[None]
    world = jax_world(devices, parallel)
    _, end = jax_steps(config, start, random_arrays(config), rows, 0.1, world)
    return {name: end[name] - start[name] for name in start}


@pytest.mark.parametrize("parallel", exhaustive_but(["dp"], ["dp", "fsdp", "pmap"]))
def test_two_devices_gradients_in_bf16_add_as_two_micro_batches_do(
    make_config, parallel
):
    """In fp32. The compiled step would not say: on a CPU XLA sums bf16 as fp32."""
    alone = update_in_bf16(make_config, devices=1)
    shared = update_in_bf16(make_config, 2, parallel)
    assert max(leaf_differences(alone, shared).values()) <= 1e-4


def test_a_sum_before_the_cast_would_be_seen(make_config, monkeypatch):
    def by_the_compiler(local, params, whole, rows, world, warms_up):
        return local(params, whole, rows)

    alone = update_in_bf16(make_config, devices=1)
    monkeypatch.setattr(jax_step, "share_gradients", by_the_compiler)
    monkeypatch.setattr(jax_exchange, "scope_norms", lambda *_: None)
    assert "f16" in summed("fp16", "dp")
    shared = update_in_bf16(make_config, 2)
    assert max(leaf_differences(alone, shared).values()) > 1e-3


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_on_one_node_torch_meets_on_one_address_alone(address):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    srun = Processes(launcher="slurm", coordinator=f"127.0.0.1:{port}")
    store = _store(srun)
    store.set("met", "here")
    if address == "127.0.0.1":
        socket.create_connection((address, port), 5).close()
    else:  # one that all addresses would include
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), 5)
