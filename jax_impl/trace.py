"""One training step, layer by layer, by subclasses of the model's modules.

Shapes: B batch, H height, W width, C channels, L layers with dropout.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.recurrent import RNNCellBase
from flax.nnx.tracers import TraceState
from jax import Array
from jaxtyping import Float, Int

from data.augment import batch_draws
from data.dropout import batch_keys
from jax_impl.freeze import split_frozen
from jax_impl.own_dropout import KeyedDropout
from jax_impl.parallel import World, place_batch
from jax_impl.step import DeviceData, TrainState, gather, loss_fn
from jax_impl.weights import canonical_name
from recipe.batch_plan import BatchPlan
from recipe.config import Config
from record.trace import Trace, numbered


def trace_planned(
    config: Config,
    graphdef: nnx.GraphDef,
    state: TrainState,
    data: DeviceData,
    plan: BatchPlan,
    step: int,
    world: World,
) -> Trace:
    """`trace_step` of a run's next step.

    Args:
      step: from 0.
    """
    whole = plan.indices(step)
    draws = place_batch(batch_draws(config, plan, step, whole), world)
    keys = place_batch(batch_keys(config, plan, step, whole), world)
    batch = data, place_batch(whole, world), draws, keys
    return trace_step(config, graphdef, state, *batch, step + 1)


def trace_step(
    config: Config,
    graphdef: nnx.GraphDef,
    state: TrainState,
    data: DeviceData,
    indices_B: Int[Array, " B"],
    draws: Any,
    keys_BL: Int[Array, "B L"] | None,
    step: int,
) -> Trace:
    """Trace the next training step; the state is not changed.

    Gradients are of the scaled loss, if there is a scale, divided by it again: they
    underflow in 16 bits as in training.

    Args:
      step: from 1, for the record.
    """
    outputs: dict[str, Array] = {}
    nudges: dict[
        str, Array
    ] = {}  # zeros, added to outputs: the gradient with respect to them is the output's
    kinds: dict[str, str] = {}

    here: list[TraceState] = []  # where `forward` is traced

    def keep_output(name: str, module: nnx.Module, output: Any) -> Any:
        if not here[-1].is_valid():
            return output  # in a scan's body, whose arrays cannot be returned
        if isinstance(module, RNNCellBase):
            # The carry contains the output; in torch one array is both, and its
            # gradient is of both.
            carry, out = output
            kept = keep_array(name, module, out)
            return jax.tree.map(lambda x: kept if x is out else x, carry), kept
        if isinstance(output, tuple):
            return keep_output(name, module, output[0]), *output[1:]
        return keep_array(name, module, output)

    def keep_array(name: str, module: nnx.Module, output: Any) -> Any:
        if not isinstance(output, Array):
            return output
        call = numbered(name, outputs)
        kinds[call] = type(module).__mro__[1].__name__
        if isinstance(module, KeyedDropout):
            kinds[call] = module.kind
        if call in nudges:
            output = output + nudges[call]
        outputs[call] = output
        return output

    scale = 1.0 if state.loss_scale is None else float(state.loss_scale.value)
    model = nnx.merge(graphdef, state.params, state.statistics)
    for path, module in list(nnx.iter_modules(model)):
        _observe(module, canonical_name(path) or "model", keep_output)
    graphdef, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    trained, frozen = split_frozen(config, params)

    def forward(
        trained: nnx.State,
        by_output: dict[str, Array],
        statistics: nnx.State,
        images: Array,
        labels: Array,
        keys_BL: Array | None,
    ) -> tuple[Array, dict[str, Array]]:
        here.append(TraceState())
        outputs.clear()
        nudges.update(by_output)
        outputs["input"], outputs["labels"] = images, labels
        params = nnx.merge_state(trained, frozen)
        given = params, statistics, images, labels, keys_BL
        loss, _ = loss_fn(config, graphdef, *given)
        outputs["loss"] = loss
        return loss * scale, dict(outputs)

    batch = statistics, *gather(config, data, indices_B, draws), keys_BL
    _, shapes = jax.eval_shape(forward, trained, {}, *batch)
    order = list(outputs)  # jit sorts dicts
    zeros = {name: jnp.zeros(shapes[name].shape, shapes[name].dtype) for name in kinds}
    differentiate = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True)
    (_, found), (gradients, by_output) = jax.jit(differentiate)(trained, zeros, *batch)
    return Trace(
        step=step,
        weights=_canonical_weights(params) | _canonical_weights(statistics),
        outputs={name: canonical_layout(found[name]) for name in order},
        output_gradients={n: canonical_layout(by_output[n]) / scale for n in kinds},
        gradients=_canonical_weights(jax.tree.map(lambda g: g / scale, gradients)),
        kinds=kinds,
    )


def _observe(module: nnx.Module, name: str, keep_output: Any) -> None:
    """Make this one module pass its output to `keep_output`.

    Python looks up `__call__` on the class, so the module gets its own class.
    """
    kind = type(module)
    if not callable(module):
        return

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return keep_output(name, self, kind.__call__(self, *args, **kwargs))

    module.__class__ = type(kind.__name__, (kind,), {"__call__": call})


def _canonical_weights(params: nnx.State) -> dict[str, np.ndarray]:
    return {
        canonical_name(path, variable): np.asarray(variable.get_value())
        for path, variable in nnx.to_flat_state(params)
    }


def canonical_layout(array: Array) -> Float[np.ndarray, "..."]:
    """On the host, at least fp32; Flax's layout is already canonical."""
    return np.asarray(array, None if array.dtype == jnp.float64 else np.float32)
