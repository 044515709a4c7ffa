"""Both twins in one process: on a CPU they do not get in each other's way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from flax.nnx.nn import normalization
from jax.sharding import Mesh

from jax_impl.cache import MOST_BYTES
from jax_impl.parallel import World as JaxWorld
from tests.conftest import CACHE
from tests.twins.steps import jax_steps, random_arrays, torch_steps
from torch_impl.parallel import World as TorchWorld

TORCH = TorchWorld(0, 1, 1, torch.device("cpu"))

# What is compiled for one test serves those that compile the same, in every worker and
# in the next session. Given a limit, JAX locks the folder, as for `open_cache`; what
# writes there without one would break it, so plain JAX programs do not share it.
CACHED = {
    "compilation_cache_dir": str(Path(CACHE["JAX_COMPILATION_CACHE_DIR"], "twins")),
    "compilation_cache_max_size": MOST_BYTES,
    "persistent_cache_min_compile_time_secs": 0.0,
    "persistent_cache_min_entry_size_bytes": -1,
}
for name, value in CACHED.items():
    jax.config.update(f"jax_{name}", value)

# For the tests of JAX over several; the others take the first.
jax.config.update("jax_num_cpu_devices", 4)


# Libraries' own code, which counts on promotion.
PROMOTING = [
    (normalization, "_compute_stats"),  # flax's: promote_types(bfloat16, float32)
    (normalization, "_normalize"),  # of 16 bits by statistics of 32
    (optax.tree, "bias_correction"),  # decay ** count, an integer
]


@contextmanager
def jaxs_promotion() -> Iterator[None]:
    """What JAX does unless asked, and so in a run."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxs_promotion():
            return function(*args, **kwargs)

    return call


@pytest.fixture(autouse=True)
def proof_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """JAX has no fp64 unless asked, and promotes neither dtypes nor ranks by itself.

    What a test has set for products does not outlive it.
    """
    for module, name in PROMOTING:
        monkeypatch.setattr(module, name, promoting(getattr(module, name)))
    strict = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
    products = "jax_default_matmul_precision"
    before = getattr(jax.config, products)
    with jax.enable_x64(True), strict[0], strict[1]:
        yield
    jax.config.update(products, before)


@pytest.fixture(autouse=True)
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole steps without LLVM's work on kernels, most of these tests' time.

    What XLA does before is as in a run, and runs that tests/launch starts have all of
    it. So has what `jax.jit` compiles here: tests of single bits, which fused
    multiplications and additions change, go that way.
    """
    compiled = jax.stages.Lowered.compile
    options: Any = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(
        jax.stages.Lowered,
        "compile",
        lambda lowered, given=None: compiled(lowered, options | (given or {})),
    )


@pytest.fixture
def promotion(proof_mode: None) -> Iterator[None]:
    """For models of a user's own, who may leave promotion to JAX."""
    with jaxs_promotion():
        yield


@pytest.fixture
def worlds() -> tuple[TorchWorld, JaxWorld]:
    mesh = Mesh(np.array(jax.local_devices()[:1]), ("data",))
    return TORCH, JaxWorld(0, 1, 1, mesh)


@pytest.fixture
def arrays():
    """Random images with labels for classes or for regression."""
    return random_arrays


@pytest.fixture
def twins(arrays, worlds):
    """Either twin as a function: batches -> metrics of each step, weights."""

    def make(config, weights, given=None):
        data = given or arrays(config)

        def run(steps, world):
            def twin(batches, rate=0.1):
                return steps(config, weights, data, batches, rate, world)

            return twin

        return tuple(map(run, (torch_steps, jax_steps), worlds))

    return make
