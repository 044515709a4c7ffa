"""One training step, layer by layer, by hooks on the model's modules.

Shapes: B batch, H height, W width, C channels, L layers with dropout.
"""

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.augment import batch_draws
from data.dropout import batch_keys
from recipe.batch_plan import BatchPlan
from recipe.config import Config
from recipe.loss_scale import LossScale
from recipe.weights import is_updated
from record.trace import Trace, numbered
from torch_impl.freeze import train_mode
from torch_impl.own_dropout import KeyedDropout
from torch_impl.parallel import World, place_batch
from torch_impl.step import DeviceData, gather, loss_fn
from torch_impl.weights import save_weights

# Modules whose features are the last axis in both frameworks.
LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)


def trace_planned(
    config: Config,
    model: nn.Module,
    data: DeviceData,
    plan: BatchPlan,
    step: int,
    loss_scale: LossScale | None,
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
    return trace_step(config, model, *batch, loss_scale, step + 1, world)


def trace_step(
    config: Config,
    model: nn.Module,
    data: DeviceData,
    indices_B: Int[Tensor, " B"],
    draws: Any,
    keys_BL: Int[Tensor, "B L"] | None,
    loss_scale: LossScale | None,
    step: int,
    world: World,
) -> Trace:
    """Trace the next training step; the model is not changed.

    Gradients are of the scaled loss, if there is a scale, divided by it again: they
    underflow in 16 bits as in training.

    Args:
      step: from 1, for the record.
    """
    scale = 1.0 if loss_scale is None else float(loss_scale.value)
    weights = {name: array.copy() for name, array in save_weights(model, world).items()}
    model = copy.deepcopy(
        model
    )  # a copy, so hooks and running statistics do not affect the model
    outputs: dict[str, np.ndarray] = {}
    output_gradients: dict[str, np.ndarray] = {}
    kinds: dict[str, str] = {}

    def keep_gradient(name: str, channels: int | None, gradient: Tensor) -> None:
        output_gradients[name] = canonical_layout(gradient, channels) / scale

    def keep_output(name: str, module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, tuple):
            output = output[0]  # attention also returns its weights
        if not isinstance(output, Tensor):
            return
        call = numbered(name, outputs)
        kinds[call] = type(module).__name__
        channels = -1 if isinstance(module, LAST) else None
        if isinstance(module, KeyedDropout):
            kinds[call], channels = module.kind, module.last_in_jax(output)
        outputs[call] = canonical_layout(output, channels)
        if output.is_floating_point():
            # An output of the images alone, such as dropout of pixels, needs this.
            hooked = output.requires_grad_()
            hooked.register_hook(partial(keep_gradient, call, channels))

    for name, module in model.named_modules():
        module.register_forward_hook(partial(keep_output, name or "model"))

    train_mode(config, model)
    images, labels = gather(config, data, indices_B, draws)
    outputs["input"], outputs["labels"] = map(canonical_layout, (images, labels))
    loss = loss_fn(config, model, images, labels, keys_BL)
    (loss * scale).backward()
    outputs["loss"] = canonical_layout(loss)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.zeros_like(parameter)
                if parameter.grad is None
                else parameter.grad / scale
            )
    return Trace(
        step=step,
        weights=weights,
        outputs=outputs,
        output_gradients={
            n: output_gradients.get(n, np.zeros_like(outputs[n])) for n in kinds
        },
        gradients={
            n: g for n, g in save_weights(model, world).items() if is_updated(config, n)
        },
        kinds=kinds,
    )


def canonical_layout(
    tensor: Tensor, channels: int | None = None
) -> Float[np.ndarray, "..."]:
    """On the host, at least fp32, features as NHWC; four axes are assumed to be NCHW.

    Args:
      channels: the axis that is last in JAX's twin, if known.
    """
    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.float64:
        tensor = tensor.float()
    if channels is None:
        channels = 1 if tensor.ndim == 4 else -1
    if tensor.ndim:
        tensor = tensor.movedim(channels, -1)
    return tensor.numpy().copy()
