"""The optimizer, every constant explicit; the learning rate arrives with each step."""

import torch
from torch import nn

from recipe.config import Config
from recipe.weights import decays
from torch_impl.weights import canonical_name


def build_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """SGD: g += decay p;  m = momentum m + g;  p -= lr (g + momentum m | m).

    Source: Sutskever et al., On the importance of initialization and momentum, ICML
    2013, in torch's form: the learning rate multiplies after momentum, no dampening.
    """
    optim = config.optim
    decayed, rest = [], []
    for name, parameter in model.named_parameters():
        group = decayed if decays(config, canonical_name(name)) else rest
        group.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=optim.peak_lr,
        momentum=optim.momentum,
        dampening=0.0,
        nesterov=optim.nesterov,
    )


def apply_update(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """One optimizer step on the gradients that the parameters hold."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
