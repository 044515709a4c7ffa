"""Frozen layers, `train.freeze`: no gradients, and running statistics in training."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recipe.config import Config
from recipe.prefixes import is_frozen
from torch_impl.layers import BatchNorm
from torch_impl.weights import canonical_names


def freeze(config: Config, model: nn.Module) -> None:
    """Exclude the frozen parameters from differentiation, and so from all that follows.

    DDP and FSDP then exchange no gradients of theirs. JAX splits its parameters.
    """
    names = canonical_names(model)
    for name, parameter in model.named_parameters():
        if is_frozen(config, names[name]):
            parameter.requires_grad_(False)
    train_mode(config, model)  # a new model is in training mode, frozen norms too


def train_mode(config: Config, model: nn.Module) -> None:
    """Training mode, except for frozen norms: these use running statistics.

    Args:
      model: or DDP's wrapper of it.
    """
    model.train()
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    for name, layer in inner.named_modules() if config.train.freeze else ():
        normalises = isinstance(layer, BatchNorm | nn.modules.batchnorm._NormBase)
        if normalises and is_frozen(config, name):
            layer.eval()
