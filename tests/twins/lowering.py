"""Steps of JAX as a GPU would be given them: lowered for CUDA, on a CPU, not compiled.

What is lowered is what a run compiles, for several devices of one process.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jaxlib.mlir import ir

from data.batches import window_batches
from jax_impl import parallel, precision
from jax_impl import step as steps
from jax_impl.checkpoint import load_state
from jax_impl.exchange import scope_norms
from jax_impl.model import build_model
from jax_impl.optim import build_optimizer
from jax_impl.weights import load_weights
from recipe.batch_plan import BatchPlan
from recipe.config import Config
from recipe.execution import Strategy
from recipe.pixels import pixel_affine
from recipe.weights import weight_shapes
from tests.twins.steps import EXAMPLES, random_arrays

DEVICES = 4
AMPERE: Any = SimpleNamespace(platform="gpu", compute_capability="8.0")
EXCHANGES = (
    *("all_reduce", "reduce_scatter", "all_gather"),
    *("all_to_all", "collective_permute", "collective_broadcast"),
)
READ = "convolution", "dot_general"  # whose attributes are


class Tensor(NamedTuple):
    """A type: `f32` of (2, 3)."""

    dtype: str
    shape: tuple[int, ...]


class Operation(NamedTuple):
    """One operation of a module, however deep in it.

    Args:
      name: without its dialect: `dot_general`.
      branches: how many regions it has.
      precision: of a product: `HIGHEST`, of both factors.
    """

    name: str
    operands: list[Tensor]
    results: list[Tensor]
    branches: int
    precision: set[str]


class Step(NamedTuple):
    """A step that was lowered.

    Args:
      leaves: how many arrays its first argument has.
      donated: arguments of the module that a result may take the memory of, by number.
    """

    operations: list[Operation]
    leaves: int
    donated: list[int]

    def named(self, *names: str) -> list[Operation]:
        return [o for o in self.operations if o.name in names]

    @property
    def products(self) -> list[Operation]:
        return self.named("convolution", "dot_general", "dot")

    @property
    def exchanged(self) -> Counter[tuple[str, Tensor]]:
        """What a device hands to each collective, and how often."""
        return Counter((o.name, x) for o in self.named(*EXCHANGES) for x in o.operands)


class Lowered(NamedTuple):
    """Both steps of a run.

    Args:
      shapes: of its leaves, by name.
    """

    config: Config
    shapes: dict[str, tuple[int, ...]]
    train: Step
    evaluate: Step


def lower(config: Config, backend: str = "gpu") -> Lowered:
    """Both steps, as `compile_steps` would compile them on so many GPUs.

    Args:
      backend: what JAX says that it runs on.
    """
    mesh = Mesh(np.array(jax.local_devices()[:DEVICES]), (parallel.AXIS,))
    strategy, grad_sync = Strategy(config.parallel.name), config.parallel.grad_sync
    world = parallel.World(0, 1, DEVICES, mesh, strategy, grad_sync)
    made: list[Step] = []

    def note(
        step: Callable[..., Any], example: tuple[Any, ...], world: Any, donate: bool
    ) -> tuple[None, float]:
        module = parallel._mapped(step, example, world, donate).lower(*example)
        module = module.compiler_ir()
        leaves = len(jax.tree.leaves(example[0]))
        made.append(Step(operations(module), leaves, donated(module)))
        return None, 0.0

    with _as_on_a_gpu(config, backend), pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "parallelize", note)
        dtype = precision.parameter_dtype(config)
        shapes = weight_shapes(config)
        weights = {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
        arrays = (*random_arrays(config), *pixel_affine(config))
        data = steps.DeviceData(*parallel.replicate(arrays, world))
        model = build_model(config)
        scope_norms(model, world)
        graphdef, params, statistics = load_weights(model, weights)
        optimizer = build_optimizer(config, params)
        # Of zeros in NumPy: JAX would compile a program for each shape.
        made_of = jax.eval_shape(optimizer.init, params)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), made_of)
        quick = optimizer._replace(init=lambda _: zeros)
        given = config, model, params, statistics, quick, weights, None, world
        state = load_state(*given)
        plan = BatchPlan.of(config, EXAMPLES)
        window = window_batches(config, plan, range(1), 0, 1)
        built = config, graphdef, optimizer, state, data, data, window, world
        steps.compile_steps(*built)
    train, evaluate = made
    return Lowered(config, shapes, train, evaluate)


@contextmanager
def _as_on_a_gpu(config: Config, backend: str) -> Iterator[None]:
    """With the settings of a run there, and JAX's own restored afterwards."""
    lowered = partial(jax.stages.Traced.lower, lowering_platforms=("cuda",))
    names = "jax_enable_x64", "jax_default_matmul_precision"
    before = {name: getattr(jax.config, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: backend)
        patch.setattr(jax.stages.Traced, "lower", lambda traced: lowered(traced))
        try:
            precision.configure(config, AMPERE)
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)


def operations(module: ir.Module) -> list[Operation]:
    found: list[Operation] = []

    def note(operation: Any) -> ir.WalkResult:
        *_, name = operation.name.rpartition(".")
        attributes = operation.attributes if name in READ else {}
        given, made = operation.operands, operation.results
        precision = re.findall("[A-Z]+", str(attributes.get("precision_config", "")))
        types = [tensor(x) for x in given], [tensor(x) for x in made]
        found.append(Operation(name, *types, len(operation.regions), {*precision}))
        return ir.WalkResult.ADVANCE

    module.operation.walk(note)
    return found


def tensor(value: ir.Value) -> Tensor:
    try:
        ranked = ir.RankedTensorType(value.type)
    except ValueError:  # a token
        return Tensor(str(value.type), ())
    return Tensor(str(ranked.element_type), tuple(ranked.shape))


def donated(module: ir.Module) -> list[int]:
    """Arguments of the main function whose memory a result may take."""
    (main,) = (
        o
        for o in module.body.operations
        if o.operation.name == "func.func" and str(o.attributes["sym_name"]) == '"main"'
    )
    marks = "tf.aliasing_output", "jax.buffer_donor"
    of_each = map(ir.DictAttr, ir.ArrayAttr(main.attributes["arg_attrs"]))
    return [i for i, own in enumerate(of_each) if any(mark in own for mark in marks)]
