"""What devices exchange within a step: gradients and the statistics of BatchNorm.

The collectives are explicit, inside the compiled step; in PyTorch DDP or FSDP start
them during the backward pass. Between the steps of local SGD: `local_sgd.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from jax_impl.layers import BatchNorm
from jax_impl.parallel import AXIS, World, shards


def scope_norms(model: nnx.Module, world: World) -> None:
    """Make each BatchNorm with `sync` compute statistics over all devices' examples."""
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, BatchNorm) and layer.sync and world.size > 1:
            layer.axis = AXIS


def mean_over_devices(tree: Any) -> Any:
    """The mean of each array over the devices; on a CPU by one sum."""
    count = jax.lax.axis_size(AXIS)
    return jax.tree.map(lambda total: total / count, _sum(tree))


def share_gradients(
    local: Callable[[nnx.State, Any, Any], tuple[Array, nnx.State, nnx.State]],
    params: nnx.State,
    whole: Any,
    rows: Any,
    world: World,
    warms_up: bool = False,
) -> tuple[Array, nnx.State, nnx.State]:
    """The loss and gradients, summed over the devices.

    Under fsdp a device gathers the whole parameters, and keeps its shard of the summed
    gradients. The sums are explicit: the compiler would place them right after a
    weight's gradient, before its cast to the parameters' dtype, and so sum in 16 bits
    (jax#27496). In PyTorch they are done by DDP or FSDP.

    Args:
      local: maps (params, whole, rows) to these rows' part of the loss, its gradients,
        and the running statistics.
      whole: other replicated arguments.
      rows: arrays whose axis 1 is that of the rows.
      warms_up: whether the replicas of local SGD still exchange gradients. Their losses
        and statistics stay their own.

    Returns:
      The loss, its gradients placed as the parameters are, and the statistics of the
      first device, which may be local: they are evaluated and recorded.
    """
    if world.size == 1:
        return local(params, whole, rows)
    if world.local or not world.grad_sync:  # a device's part stands for the whole
        loss, gradients, statistics = local(params, whole, rows)
        if warms_up:
            return loss, _sum(gradients), statistics
        return loss, jax.tree.map(lambda g: g * world.size, gradients), statistics
    specs = jax.tree.map(lambda leaf: shards(leaf.shape, world), params)

    def on_a_device(params: nnx.State, whole: Any, rows: Any) -> Any:
        params = jax.tree.map(gather, params, specs)
        loss, gradients, statistics = local(params, whole, rows)
        leads = jax.lax.axis_index(AXIS) == 0
        first = jax.tree.map(lambda leaf: jnp.where(leads, leaf, 0), statistics)
        if not world.sharded:
            return _sum((loss, gradients, first))
        loss, first = _sum((loss, first))
        return loss, jax.tree.map(add, gradients, specs), first

    def gather(shard: Array, spec: PartitionSpec) -> Array:
        if AXIS not in spec:
            return shard
        return jax.lax.all_gather(shard, AXIS, axis=spec.index(AXIS), tiled=True)

    def add(gradient: Array, spec: PartitionSpec) -> Array:
        if AXIS not in spec:
            return jax.lax.psum(gradient, AXIS)
        axis = spec.index(AXIS)
        return jax.lax.psum_scatter(gradient, AXIS, scatter_dimension=axis, tiled=True)

    if not world.mapped:
        on_a_device = jax.shard_map(
            on_a_device,
            mesh=world.mesh,
            in_specs=(specs, PartitionSpec(), PartitionSpec(None, AXIS)),
            out_specs=(PartitionSpec(), specs, PartitionSpec()),
            check_vma=False,  # else gradients would be summed inside the layers
        )
    return on_a_device(params, whole, rows)


def _sum(tree: Any) -> Any:
    """Sum each array over the devices; on a CPU as one vector.

    There each all-reduce makes devices wait for each other: two ranks of one core each
    reached 920 images/s with the nine sums of `fashion_cnn`, 2,395 with one and 2,650
    without any.
    """

    def as_one(tree: Any) -> Any:
        vector, separate = ravel_pytree(tree)
        return separate(jax.lax.psum(vector, AXIS))

    separately = partial(jax.lax.psum, axis_name=AXIS)
    return jax.lax.platform_dependent(tree, cpu=as_one, default=separately)
