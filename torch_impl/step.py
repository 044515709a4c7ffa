"""One training step and one evaluation step.

Shapes: A micro-batches, B this rank's rows of one, H height, W width, C channels,
K classes, L layers with dropout.
"""

import time
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from recipe.config import Config
from recipe.loss_scale import LossScale, next_loss_scale
from record.metadata import Compilation
from torch_impl.augment import crop_and_flip, cut_out
from torch_impl.cache import all_found, lookups
from torch_impl.ema import Average, move_average
from torch_impl.exchange import only_the_last, share_gradients
from torch_impl.freeze import train_mode
from torch_impl.local_sgd import Local
from torch_impl.metrics import StepMetrics
from torch_impl.optim import apply_update, clip_gradients, multiply
from torch_impl.parallel import World, unshard
from torch_impl.precision import parameter_dtype


class DeviceData(NamedTuple):
    """One whole split of a dataset, on the model's device."""

    images: UInt8[Tensor, "N H W C"]
    labels: Int[Tensor, " N"] | Float[Tensor, " N"]
    mean: Float[Tensor, " C"]
    scale: Float[Tensor, " C"]


def gather(
    config: Config, data: DeviceData, indices_B: Int[Tensor, " B"], draws: Any = None
) -> tuple[Float[Tensor, "B C H W"], Tensor]:
    """Gather the batch by its indices, augment it and normalise its pixels."""
    augment = config.data.augment
    if draws is None:
        # Not images[indices], which is eight times slower on a CPU: 74 us for 128.
        pixels_BHWC = data.images.index_select(0, indices_B)
    else:
        pixels_BHWC = crop_and_flip(augment, data.images, indices_B, draws)
    images_BHWC = normalise(pixels_BHWC, data.mean, data.scale)
    if draws is not None:
        images_BHWC = cut_out(augment, images_BHWC, draws)
    return images_BHWC.permute(0, 3, 1, 2), data.labels.index_select(0, indices_B)


def normalise(
    pixels_BHWC: UInt8[Tensor, "B H W C"],
    mean_C: Float[Tensor, " C"],
    scale_C: Float[Tensor, " C"],
) -> Float[Tensor, "B H W C"]:
    """Pixels as the model takes them, see `recipe/pixels.py`."""
    return (pixels_BHWC.to(mean_C.dtype) - mean_C) * scale_C


def example_losses(
    config: Config,
    outputs_BK: Float[Tensor, "B K"],
    labels_B: Tensor,
    smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """Cross-entropy in nats, or squared error without classes.

    Args:
      smoothing: fraction s of the target that is spread over all K classes: 1 - s + s/K
        for the label's, s/K for the others (Szegedy et al., CVPR 2016).
    """
    if config.data.classes:
        return F.cross_entropy(
            outputs_BK, labels_B.long(), reduction="none", label_smoothing=smoothing
        )
    return (outputs_BK[:, 0] - labels_B.to(outputs_BK.dtype)).square()


def loss_fn(
    config: Config,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    keys_BL: Int[Tensor, "B L"] | None = None,
) -> Float[Tensor, ""]:
    """This rank's part of the loss: its sum over the rows / global batch size.

    Args:
      keys_BL: of the examples' dropout masks; None without dropout.
    """
    smoothing = config.train.label_smoothing  # for training only: tests use the labels
    dropped = () if keys_BL is None else (keys_BL,)
    outputs = model(images, *dropped).to(parameter_dtype(config))
    losses_B = example_losses(config, outputs, labels, smoothing)
    return losses_B.sum() / config.train.global_batch_size


def one_step(batches: Any, position: int) -> Any:
    """The indices, augmentation parameters and keys of one step of a window.

    Args:
      batches: `Batches` on the device, or another tuple of columns.
    """

    def pick(column: Any) -> Any:
        if hasattr(column, "_fields"):
            return type(column)(*map(pick, column))
        return column if column is None else column[position]

    return tuple(map(pick, batches))


def train_step(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: DeviceData,
    indices_AB: Int[Tensor, "A B"],
    draws: Any,
    keys_ABL: Int[Tensor, "A B L"] | None,
    learning_rate: float,
    loss_scale: LossScale | None,
    world: World,
    average: Average | None = None,
    warms_up: bool = False,
) -> tuple[LossScale | None, StepMetrics]:
    """Update the parameters, the running statistics and the average, in place.

    A skipped step does not change parameters, optimizer and average; the running
    statistics are updated by the forward pass. The host issues the step and waits for
    nothing that it computes.

    Args:
      draws: augmentation parameters, a row for each micro-batch, or None.
      keys_ABL: of the examples' dropout masks, or None.
      warms_up: whether the replicas of local SGD still exchange gradients.

    Returns:
      The next step's loss scale, and this one's metrics.
    """
    scale = 1.0 if loss_scale is None else loss_scale.value
    if not model.training:
        train_mode(config, model)  # visits every layer
    optimizer.zero_grad()
    losses = []
    for part, indices_B in enumerate(indices_AB):
        drawn = None if draws is None else type(draws)(*(d[part] for d in draws))
        keys_BL = None if keys_ABL is None else keys_ABL[part]
        images, labels = gather(config, data, indices_B, drawn)
        with only_the_last(model, last=part == len(indices_AB) - 1):
            loss = loss_fn(config, model, images, labels, keys_BL)
            (loss if loss_scale is None else loss * scale).backward()
        losses.append(loss.detach())
    groups = [group["params"] for group in optimizer.param_groups]
    gradients = [p.grad for group in groups for p in group if p.grad is not None]
    if warms_up:
        share_gradients(gradients, world)
    # Ranks' gradients were averaged, but the loss is a sum over ranks, so undo the
    # average. Here, in fp32: in an fp16 backward pass it would overflow sooner on more
    # ranks. Without the exchange a rank's part stands for the whole.
    if loss_scale is not None or world.size > 1:
        multiply(gradients, world.size / scale)
    # One kernel, which torch by itself does not take for shards.
    foreach = True if world.sharded else None
    grad_norm = unshard(nn.utils.get_total_norm(gradients, foreach=foreach), world)
    skipped = None
    if loss_scale is not None and config.precision.loss_scale is not None:
        # The same on every rank, since the norm is of the global gradient.
        finite = grad_norm.isfinite()
        given = config.precision.loss_scale, loss_scale, finite
        loss_scale = next_loss_scale(*given, torch.where)
        skipped = ~finite
    if config.optim.update:
        clip_gradients(config, gradients, grad_norm)
        apply_update(optimizer, learning_rate, skipped)
        move_average(config, average, skipped)
    loss = torch.stack(losses).sum()
    without = False if skipped is None else skipped
    return loss_scale, StepMetrics(loss, grad_norm, scale, without)


def compile_steps(
    config: Config,
    model: nn.Module,
    parallel: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: DeviceData,
    indices_AB: Int[Tensor, "A B"],
    draws: Any,
    keys_ABL: Int[Tensor, "A B L"] | None,
    loss_scale: LossScale | None,
    world: World,
    average: Average | Local | None = None,
) -> Compilation:
    """Compile the model inside its wrapper.

    By running a step of each kind, since torch.compile compiles at the first call,
    where JAX compiles ahead of time. The training step has no update, and the running
    statistics are restored.
    """
    begin, earlier = time.perf_counter(), lookups()
    # CUDA graphs overwrite the model's outputs at its next call; no metric is one.
    mode = "reduce-overhead" if config.compile == "max" else None
    model.compile(dynamic=False, mode=mode)
    statistics = [statistic.clone() for statistic in model.buffers()]
    frozen = replace(config, optim=replace(config.optim, update=False))
    batch = data, indices_AB, draws, keys_ABL
    train_step(frozen, parallel, optimizer, *batch, 0.0, loss_scale, world)
    for statistic, before in zip(model.buffers(), statistics, strict=True):
        statistic.copy_(before)
    if average is not None:
        model = average.model
        model.compile(dynamic=False, mode=mode)
    indices_B = indices_AB.flatten()
    eval_step(config, model, data, indices_B, indices_B >= 0)
    return Compilation(time.perf_counter() - begin, all_found(earlier))


@torch.no_grad()
def eval_step(
    config: Config,
    model: nn.Module,
    data: DeviceData,
    indices_B: Int[Tensor, " B"],
    mask_B: Bool[Tensor, " B"],
) -> tuple[Float[Tensor, ""], Int[Tensor, "K K"]]:
    """Sums over this rank's unmasked rows: the loss, and the confusion matrix.

    The matrix counts rows of true class i predicted as j; it is empty without classes.
    """
    outputs, labels = predict_step(config, model, data, indices_B)
    losses_B = example_losses(config, outputs, labels)
    loss_sum = torch.where(mask_B, losses_B, 0).sum()
    classes = config.data.classes
    confusion = torch.zeros(classes * classes, dtype=torch.int32, device=outputs.device)
    if classes:
        cells_B = labels.long() * classes + outputs.argmax(dim=1)
        confusion.index_add_(0, cells_B, mask_B.to(torch.int32))
    return loss_sum, confusion.reshape(classes, classes)


@torch.no_grad()
def predict_step(
    config: Config, model: nn.Module, data: DeviceData, indices_B: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "B K"], Tensor]:
    """The outputs in evaluation mode for this rank's rows, and their labels."""
    images, labels = gather(config, data, indices_B)
    model.eval()
    return model(images).to(parameter_dtype(config)), labels
