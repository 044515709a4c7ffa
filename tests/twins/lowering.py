"""JAX's whole training step as StableHLO for CUDA, made on a CPU and never compiled."""

import re
from collections import Counter
from functools import partial
from math import prod
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import numpy as np
from jax.sharding import Mesh

from data.batches import window_batches
from jax_impl import ema, exchange, model, optim, parallel, step, weights
from jax_impl.precision import configure, parameter_dtype
from recipe.batch_plan import BatchPlan
from recipe.config import Config
from recipe.execution import Strategy
from recipe.loss_scale import initial_loss_scale
from recipe.pixels import pixel_affine
from recipe.weights import weight_dtype, weight_shapes

EXAMPLES = 64
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "collective_permute")
TENSOR = r"tensor<((?:\d+x)*)(\w+)>"


class Module(NamedTuple):
    """A lowered step.

    Args:
      text: StableHLO.
      leaves: of the state, which are its first arguments.
    """

    text: str
    leaves: int

    def count(self, operation: str) -> int:
        return len(re.findall(rf'\bstablehlo\.{operation}\b"?[ (]', self.text))

    @property
    def dtypes(self) -> set[str]:
        """Element types of every tensor."""
        return {dtype for _, dtype in re.findall(TENSOR, self.text)}

    @property
    def outside_calls(self) -> set[str]:
        """Targets of its custom calls."""
        return set(re.findall(r"stablehlo\.custom_call @([\w.]+)", self.text))

    @property
    def donated(self) -> int:
        """Arguments of the step whose memory results may take."""
        (head,) = re.findall(r"func\.func public @main\((.*)\) -> ", self.text)
        return len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", head))

    @property
    def products(self) -> Counter[tuple[str, ...]]:
        """Matrix products and convolutions, by their factors' dtype and precision."""
        found: Counter[tuple[str, ...]] = Counter()
        for line in self.text.splitlines():
            if re.search(r"stablehlo\.(dot_general|convolution)", line):
                rounding = set(re.findall("HIGHEST|HIGH|DEFAULT", line)) or {"DEFAULT"}
                factors = re.findall(TENSOR, line.rpartition(" : (")[2])[:2]
                found["/".join({dtype for _, dtype in factors}), *rounding] += 1
        return found

    @property
    def exchanged(self) -> Counter[str]:
        """Numbers that each collective gives to a device."""
        found: Counter[str] = Counter()
        for name in COLLECTIVES:
            # Its result's type follows its body, or stands on its own line.
            for call in re.findall(
                rf'"stablehlo\.{name}"(?:.|\n)*?\) -> ({TENSOR})', self.text
            ):
                shape = [int(n) for n in call[1].split("x") if n]
                found[name] += prod(shape)
        return found


def lowered(config: Config, devices: int, donate: bool = True) -> Module:
    """The step as `train` compiles it, for so many devices; of zeros."""
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (parallel.AXIS,))
    asked: dict[str, Any] = {}
    with patch.object(jax.config, "update", asked.__setitem__):
        configure(config, mesh.local_devices[0])
    with (
        jax.enable_x64(asked["jax_enable_x64"]),
        jax.default_matmul_precision(asked["jax_default_matmul_precision"]),
    ):
        return _lowered(config, mesh, donate)


def _lowered(config: Config, mesh: Mesh, donate: bool) -> Module:
    devices = mesh.size
    world = parallel.World(0, 1, devices, mesh, Strategy(config.parallel.name))
    dtype = weight_dtype(config)
    labels = np.zeros(EXAMPLES, np.int32 if config.data.classes else dtype)
    images = np.zeros((EXAMPLES, *config.data.image_shape), np.uint8)
    data = parallel.replicate((images, labels, *pixel_affine(config)), world)
    network = model.build_model(config)
    exchange.scope_norms(network, world)
    zeros = {n: np.zeros(s, dtype) for n, s in weight_shapes(config).items()}
    graphdef, params, statistics = weights.load_weights(network, zeros)
    optimizer = optim.build_optimizer(config, params)
    state = step.TrainState(
        params=parallel.place_state(params, world),
        statistics=parallel.replicate(statistics, world),
        optimizer=parallel.place_state(optimizer.init(params), world),
        loss_scale=parallel.replicate(initial_loss_scale(config), world),
        average=ema.build_average(config, network, zeros, None, world),
    )
    plan = BatchPlan.of(config, EXAMPLES)
    window = window_batches(config, plan, range(1), 0, 1)
    rates = np.zeros(config.train.log_every_steps, parameter_dtype(config))
    leaves, tree = jax.tree.flatten(state)
    example = (
        leaves,
        step.DeviceData(*data),
        parallel.place_batch(window, world, axis=2),
        *parallel.replicate((rates, np.int32(0)), world),
    )
    given = config, graphdef, optimizer, world, tree
    whole = partial(step.window_step, *given)
    jitted = parallel.jitted(whole, example, world, donate)
    text = jitted.trace(*example).lower(lowering_platforms=("cuda",)).as_text()
    return Module(text, len(leaves))
