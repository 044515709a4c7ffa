"""The metrics of training steps."""

from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from jax_impl.parallel import World, gather_replicas, sum_over_ranks, to_host


class StepMetrics(NamedTuple):
    """The metrics of a training step.

    Args:
      loss: before the update.
      grad_norm: 2-norm of the global gradient; of local SGD, of this replica's.
      loss_scale: factor on the loss; 1 without loss scaling.
      skipped: whether there was no update, as the scaled gradient was not finite.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    loss_scale: Float[Array, ""]
    skipped: Bool[Array, ""]


def gather_metrics(
    metrics: list[Float[Array, "..."]], world: World
) -> dict[str, np.ndarray]:
    """The metrics of steps on the host, as `Recorder.window` takes them.

    Of local SGD gradients have their replicas' mean norm. Collective.
    """
    if world.local:
        of_replicas = gather_replicas(metrics, world)
        losses, grad_norms, loss_scales, skipped = of_replicas.mean(axis=1).T
        losses = of_replicas[..., 0].sum(axis=1)
    else:
        losses, grad_norms, loss_scales, skipped = to_host(metrics, world).T
    if not world.grad_sync:  # each device has a loss of its own
        losses, *_ = sum_over_ranks(metrics, world).T
    return {
        "losses": losses,
        "grad_norms": grad_norms,
        "loss_scales": loss_scales,
        "skipped": skipped.astype(bool),
    }
