"""The metrics of training steps."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from torch_impl.parallel import World, gather_replicas, sum_over_ranks, to_host


class StepMetrics(NamedTuple):
    """The metrics of a training step.

    Args:
      loss: this rank's part of it before the update, to be summed over ranks.
      grad_norm: 2-norm of the global gradient; of local SGD, of this replica's.
      loss_scale: factor on the loss; the number 1 without loss scaling.
      skipped: whether there was no update, as the scaled gradient was not finite.
    """

    loss: Float[Tensor, ""]
    grad_norm: Float[Tensor, ""]
    loss_scale: Float[Tensor, ""] | float
    skipped: Bool[Tensor, ""] | bool


def gather_metrics(metrics: list[StepMetrics], world: World) -> dict[str, np.ndarray]:
    """The metrics of steps on the host, as `Recorder.window` takes them.

    Of local SGD gradients have their replicas' mean norm. Collective.
    """
    norms = [m.grad_norm for m in metrics]
    mean = gather_replicas(norms, world).mean(1) if world.local else None
    return {
        "losses": sum_over_ranks([m.loss for m in metrics], world),
        "grad_norms": to_host(norms, world) if mean is None else mean,
        "loss_scales": to_host([m.loss_scale for m in metrics], world),
        "skipped": to_host([m.skipped for m in metrics], world),
    }
