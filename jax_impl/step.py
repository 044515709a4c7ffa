"""One training step and one evaluation step, pure functions to be compiled whole.

Shapes: A micro-batches, B rows of one (of all devices, or of one in functions of a
single device), H height, W width, C channels, K classes, L layers with dropout.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from data.batches import Batches
from jax_impl.augment import crop_and_flip, cut_out
from jax_impl.cache import all_found, lookups
from jax_impl.ema import Average, move_average
from jax_impl.exchange import share_gradients
from jax_impl.freeze import split_frozen, train_mode
from jax_impl.local_sgd import Local, Released, compile_rounds, one_replica
from jax_impl.metrics import StepMetrics
from jax_impl.optim import apply_update, clip_gradients
from jax_impl.parallel import (
    World,
    parallelize,
    place_batch,
    replicate,
)
from jax_impl.precision import parameter_dtype
from recipe.config import Config
from recipe.loss_scale import LossScale, next_loss_scale
from record.metadata import Compilation


class DeviceData(NamedTuple):
    """One whole split of a dataset, on the model's device."""

    images: UInt8[Array, "N H W C"]
    labels: Int[Array, " N"] | Float[Array, " N"]
    mean: Float[Array, " C"]
    scale: Float[Array, " C"]


class TrainState(NamedTuple):
    """What a step takes and returns; in PyTorch it is in the model and optimizer.

    Of local SGD the arrays have a first axis of replicas, of which a step sees one.
    """

    params: nnx.State
    statistics: nnx.State
    optimizer: optax.OptState
    loss_scale: LossScale | None
    average: Average | None = None


def gather(
    config: Config, data: DeviceData, indices_B: Int[Array, " B"], draws: Any = None
) -> tuple[Float[Array, "B H W C"], Array]:
    """Gather the batch by its indices, augment it and normalise its pixels."""
    augment = config.data.augment
    # The plan's indices are in bounds, so JAX's clamp is unnecessary.
    if draws is None:
        pixels_BHWC = data.images.at[indices_B].get(mode="promise_in_bounds")
    else:
        pixels_BHWC = crop_and_flip(augment, data.images, indices_B, draws)
    images_BHWC = normalise(pixels_BHWC, data.mean, data.scale)
    if draws is not None:
        images_BHWC = cut_out(augment, images_BHWC, draws)
    return images_BHWC, data.labels.at[indices_B].get(mode="promise_in_bounds")


def normalise(
    pixels_BHWC: UInt8[Array, "B H W C"],
    mean_C: Float[Array, " C"],
    scale_C: Float[Array, " C"],
) -> Float[Array, "B H W C"]:
    """Pixels as the model takes them, see `recipe/pixels.py`."""
    mean_111C, scale_111C = (c[None, None, None] for c in (mean_C, scale_C))
    images_BHWC = (pixels_BHWC.astype(mean_C.dtype) - mean_111C) * scale_111C
    # XLA would fuse the product with a subtraction in the model into one rounding,
    # which makes the norm of a uniform image 1e-4 rather than 0. No pixel reaches this
    # bound; it only prevents the fusion.
    return jnp.maximum(images_BHWC, jnp.finfo(images_BHWC.dtype).min)


def example_losses(
    config: Config,
    outputs_BK: Float[Array, "B K"],
    labels_B: Array,
    smoothing: float = 0.0,
) -> Float[Array, " B"]:
    """Cross-entropy in nats, or squared error without classes.

    Args:
      smoothing: fraction s of the target that is spread over all K classes: 1 - s + s/K
        for the label's, s/K for the others (Szegedy et al., CVPR 2016).
    """
    classes = config.data.classes
    if classes and smoothing:
        one_hot_BK = jax.nn.one_hot(labels_B, classes, dtype=outputs_BK.dtype)
        targets_BK = optax.smooth_labels(one_hot_BK, smoothing)
        return optax.softmax_cross_entropy(outputs_BK, targets_BK)
    if classes:
        return optax.softmax_cross_entropy_with_integer_labels(outputs_BK, labels_B)
    return jnp.square(outputs_BK[:, 0] - labels_B.astype(outputs_BK.dtype))


def loss_fn(
    config: Config,
    graphdef: nnx.GraphDef,
    params: nnx.State,
    statistics: nnx.State,
    images: Array,
    labels: Array,
    keys_BL: Int[Array, "B L"] | None = None,
) -> tuple[Float[Array, ""], nnx.State]:
    """The loss: its sum over the rows here / global batch size.

    Also returns the running statistics, updated by this batch.

    Args:
      keys_BL: of the examples' dropout masks; None without dropout.
    """
    smoothing = config.train.label_smoothing  # for training only: tests use the labels
    # Copied, so that its variables belong to this trace and may be updated.
    model = nnx.merge(graphdef, params, statistics, copy=True)
    train_mode(config, model)
    dropped = () if keys_BL is None else (keys_BL,)
    outputs = model(images, *dropped).astype(parameter_dtype(config))
    losses_B = example_losses(config, outputs, labels, smoothing)
    loss = losses_B.sum() / config.train.global_batch_size
    return loss, nnx.state(model, nnx.BatchStat)


def one_step(
    batches: Batches, position: Int[Array, ""]
) -> tuple[Int[Array, "A B"], Any, Any]:
    """The indices, augmentation parameters and keys of one step of a window."""
    return tuple(jax.tree.map(lambda column: column[position], batches))


def train_step(
    config: Config,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    world: World,
    state: TrainState,
    data: DeviceData,
    indices_AB: Int[Array, "A B"],
    draws: Any,
    keys_ABL: Int[Array, "A B L"] | None,
    learning_rate: Float[Array, ""],
    warms_up: bool = False,
) -> tuple[TrainState, StepMetrics]:
    """The updated state, and the step's metrics.

    A skipped step does not change parameters, optimizer and average; the running
    statistics are updated by the forward pass.

    Args:
      draws: augmentation parameters, a row for each micro-batch, or None.
      keys_ABL: of the examples' dropout masks, or None.
      warms_up: whether the replicas of local SGD still exchange gradients.
    """
    scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.value
    trained, frozen = split_frozen(config, state.params)

    def local_gradients(trained: nnx.State, whole: Any, rows: Any) -> Any:
        frozen, statistics, data, scale = whole

        def scaled_loss(trained: nnx.State, *given: Any) -> Any:
            params = nnx.merge_state(trained, frozen)
            loss, statistics = loss_fn(config, graphdef, params, *given)
            return loss * scale.astype(loss.dtype), (loss, statistics)

        def add_micro_batch(carry: Any, rows: Any) -> tuple[Any, None]:
            total, gradients, statistics = carry
            indices_B, drawn, keys_BL = rows
            images, labels = gather(config, data, indices_B, drawn)
            new, (loss, statistics) = jax.grad(scaled_loss, has_aux=True)(
                trained, statistics, images, labels, keys_BL
            )
            gradients = jax.tree.map(jnp.add, gradients, new)
            return (total + loss, gradients, statistics), None

        zeros = jax.tree.map(jnp.zeros_like, trained)
        total = jnp.zeros((), parameter_dtype(config))
        carry = total, zeros, statistics
        # XLA's convolutions on a CPU are 4 to 32 times slower in the body of a loop,
        # even an unrolled one (docs/performance.md); elsewhere a loop saves
        # compilation.
        if jax.default_backend() == "cpu" or len(indices_AB) == 1:
            for part in range(len(indices_AB)):
                row = jax.tree.map(lambda column: column[part], rows)  # noqa: B023
                carry, _ = add_micro_batch(carry, row)
            return carry
        return jax.lax.scan(add_micro_batch, carry, rows)[0]

    whole = frozen, state.statistics, data, scale
    loss, gradients, statistics = share_gradients(
        local_gradients, trained, whole, (indices_AB, draws, keys_ABL), world, warms_up
    )
    if state.loss_scale is not None:
        gradients = jax.tree.map(lambda g: g * (1 / scale).astype(g.dtype), gradients)
    grad_norm = optax.tree.norm(gradients)
    params, slots, average = state.params, state.optimizer, state.average
    if config.optim.update:
        clipped = clip_gradients(config, gradients, grad_norm)
        updates, slots = optimizer.update(clipped, slots, trained)
        trained = apply_update(config, trained, updates, learning_rate)
        params = nnx.merge_state(trained, frozen)
        average = move_average(config, average, params, statistics)
    loss_scale, skipped = state.loss_scale, jnp.bool(False)
    if loss_scale is not None and config.precision.loss_scale is not None:
        finite = jnp.isfinite(grad_norm)
        given = config.precision.loss_scale, loss_scale, finite
        loss_scale = next_loss_scale(*given, jnp.where)
        params, slots, average = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, slots, average),
            (state.params, state.optimizer, state.average),
        )
        skipped = ~finite
    metrics = StepMetrics(loss, grad_norm, scale, skipped)
    return TrainState(params, statistics, slots, loss_scale, average), metrics


def window_step(
    config: Config,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    world: World,
    tree: Any,
    warms_up: bool,
    leaves: list[Array],
    data: DeviceData,
    batches: Batches,
    learning_rates: Float[Array, " S"],
    position: Int[Array, ""],
) -> tuple[list[Array], Float[Array, " metrics"]]:
    """The step at a position of a window; eager PyTorch selects it before the step.

    Args:
      tree: of a `TrainState`, whose leaves are taken and returned: NNX's variables are
        Python objects, which every call would flatten and rebuild (20 us for the 8 of
        an MLP, whose step takes 250).

    Returns:
      The leaves, and `StepMetrics` as one vector: each result of a call costs 10 us.
    """
    batch = one_step(batches, position)
    given = tree.unflatten(leaves), data, *batch, learning_rates[position]
    state, metrics = train_step(config, graphdef, optimizer, world, *given, warms_up)
    dtype = parameter_dtype(config)
    return jax.tree.leaves(state), jnp.stack([m.astype(dtype) for m in metrics])


def compile_steps(
    config: Config,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    train_data: DeviceData,
    test_data: DeviceData,
    window: Batches,
    world: World,
    local: Local | None = None,
) -> tuple[list[Callable[..., Any]], Callable[..., Any], Compilation]:
    """Compile both steps whole: training, as `window_step`, and evaluation.

    And the rounds of local SGD, and a second training step for its warm-up.

    Args:
      window: a window's batches, still on the host.
    """
    before = lookups()
    batches = place_batch(window, world, axis=2)
    rates = np.zeros(config.train.log_every_steps, parameter_dtype(config))
    scalars = replicate((rates, np.int32(0)), world)
    tree = jax.tree.structure(state)
    train, seconds = [], 0.0
    for warms_up in (False, True)[: 1 + bool(config.parallel.warmup_steps)]:
        made = config, graphdef, optimizer, world, tree, warms_up
        step = partial(window_step, *made)
        compiled, took = parallelize(
            one_replica(step) if world.local else step,
            (jax.tree.leaves(state), train_data, batches, *scalars),
            world,
            donate=True,
        )
        train, seconds = [*train, compiled], seconds + took
    evaluated = state
    if local is not None:
        evaluated, took = compile_rounds(local, state, world)
        seconds += took
    evaluate, took = compile_evaluation(config, graphdef, evaluated, test_data, world)
    return train, evaluate, Compilation(seconds + took, all_found(before))


def compile_evaluation(
    config: Config,
    graphdef: nnx.GraphDef,
    evaluated: TrainState | Released,
    test_data: DeviceData,
    world: World,
) -> tuple[Callable[..., Any], float]:
    """Compile `eval_step`; returns it and the seconds that took."""
    rows = np.zeros(config.train.global_batch_size // world.processes, np.int32)
    return parallelize(
        partial(eval_step, config, graphdef, world.axis),
        (evaluated.params, evaluated.statistics, test_data)
        + place_batch((rows, rows > 0), world),
        world,
        donate=False,
    )


def eval_step(
    config: Config,
    graphdef: nnx.GraphDef,
    axis: str | None,
    params: nnx.State,
    statistics: nnx.State,
    data: DeviceData,
    indices_B: Int[Array, " B"],
    mask_B: Bool[Array, " B"],
) -> tuple[Float[Array, ""], Int[Array, "K K"]]:
    """Sums over the unmasked rows: the loss, and the confusion matrix.

    The matrix counts rows of true class i predicted as j; it is empty without classes.
    """
    given = params, statistics, data, indices_B
    outputs, labels = predict_step(config, graphdef, *given)
    losses_B = example_losses(config, outputs, labels)
    loss_sum = jnp.where(mask_B, losses_B, 0).sum()
    classes = config.data.classes
    confusion = jnp.zeros(classes * classes, jnp.int32)
    if classes:
        cells_B = labels * classes + outputs.argmax(axis=1).astype(labels.dtype)
        confusion = confusion.at[cells_B].add(mask_B.astype(jnp.int32))
    sums = loss_sum, confusion.reshape(classes, classes)
    by_hand = axis is not None and config.parallel.grad_sync
    return jax.lax.psum(sums, axis) if by_hand else sums


def predict_step(
    config: Config,
    graphdef: nnx.GraphDef,
    params: nnx.State,
    statistics: nnx.State,
    data: DeviceData,
    indices_B: Int[Array, " B"],
) -> tuple[Float[Array, "B K"], Array]:
    """The outputs in evaluation mode for these rows, and their labels."""
    images, labels = gather(config, data, indices_B)
    model = nnx.merge(graphdef, params, statistics)
    model.eval()
    return model(images).astype(parameter_dtype(config)), labels
