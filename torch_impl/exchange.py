"""What ranks exchange within a step: gradients and the statistics of BatchNorm.

DDP or FSDP start the collectives during the backward pass; in JAX they are explicit,
inside the compiled step. Between the steps of local SGD: `local_sgd.py`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torch_impl.layers import BatchNorm
from torch_impl.parallel import World

if TYPE_CHECKING:  # else only imported for fsdp, since it takes a second
    from torch.distributed.fsdp import FSDPModule


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, differentiable: every rank's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _SumOverRanks.apply(*gradients)


def scope_norms(model: nn.Module, world: World) -> None:
    """Make each BatchNorm with `sync` compute statistics over all ranks' examples."""
    for layer in model.modules():
        if isinstance(layer, BatchNorm) and layer.sync and world.processes > 1:
            layer.sum_over_ranks, layer.ranks = _SumOverRanks.apply, world.processes


def mean_over_devices(tensors: list[Tensor], world: World) -> list[Tensor]:
    """Their means over ranks, by one all-reduce of all numbers in a row."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    if world.processes > 1:
        dist.all_reduce(flat)
    means = (flat / world.size).split([tensor.numel() for tensor in tensors])
    return [m.view(t.shape) for m, t in zip(means, tensors, strict=True)]


def share_gradients(gradients: list[Tensor], world: World) -> None:
    """Average the gradients of a model without a wrapper over ranks, as DDP would.

    In the warm-up of local SGD.
    """
    for gradient, mean in zip(
        gradients, mean_over_devices(gradients, world), strict=True
    ):
        gradient.copy_(mean)


def share_statistics(model: nn.Module, world: World) -> None:
    """Broadcast the running statistics of rank 0, which may be local.

    They are evaluated and recorded. JAX's step returns the first device's.
    """
    if world.processes > 1:
        for statistic in model.buffers():
            dist.broadcast(statistic, src=0)


@contextmanager
def only_the_last(model: nn.Module, last: bool) -> Iterator[None]:
    """Backward passes inside accumulate gradients; ranks reduce them in the last one.

    JAX's step writes out both, accumulation and reduction.
    """
    if _has_shards(model):
        model.set_requires_gradient_sync(last)
        yield
    elif isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
    else:
        yield


def _has_shards(model: nn.Module) -> "TypeGuard[FSDPModule]":
    module = sys.modules.get("torch.distributed.fsdp")
    return module is not None and isinstance(model, module.FSDPModule)
