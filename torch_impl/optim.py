"""The optimizer, with all constants explicit; each step passes the learning rate."""

from collections.abc import Iterator
from inspect import unwrap
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim.sgd import sgd

from recipe.config import Config
from recipe.optimizers import OPTIMIZERS, UPDATES, optimizer_state
from recipe.prefixes import lr_factor
from recipe.weights import Weights, decays
from record.checkpoint import Checkpoint
from torch_impl.parallel import World, own_shards, place_state
from torch_impl.weights import canonical_names, load_array, save_array


class _Eager(torch.optim.Optimizer):
    """A torch optimizer whose first step does not import torch.compile.

    The import takes a second, only to tell the compiler to skip these methods. They do
    the same as torch's own, without that wrapper.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    # 1 to change nothing: fused kernels read it on the device (torch.amp.GradScaler).
    found_inf: Tensor | None = None


class _SGD(_Eager, torch.optim.SGD):
    """SGD on this rank's shards, whose momentum is zero before the first step.

    torch's own takes uninitialised memory for a momentum whose first step is skipped.
    """

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            held = [p for p in group["params"] if p.grad is not None]
            state = [self.state[p] for p in held] if group["momentum"] else []
            momenta: list[Any] = [kept["momentum_buffer"] for kept in state]
            sgd(
                own_shards(held),
                own_shards([p.grad for p in held]),
                own_shards(momenta),
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=False,
                fused=True,
                found_inf=self.found_inf,
            )


class _AdamW(_Eager, torch.optim.AdamW):
    """AdamW on this rank's shards."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))

    def _init_group(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, group: dict[str, Any], *lists: list[Any]
    ) -> bool:
        has_complex = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = own_shards(tensors)
        return has_complex


def build_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW, with decay on the parameters that `optim.decay` names.

    Frozen parameters are not in it, and have no state.

    Fused: an update is one pass over all parameters, as in JAX's compiled step.

    SGD:   g += decay p;  m = momentum m + g;  p -= lr (g + momentum m | m)
    AdamW: m, v = the moments of g, corrected;  p -= lr (m / (sqrt(v) + eps) + decay p)

    Source: Sutskever et al., On the importance of initialization and momentum, ICML
    2013, in torch's form: the learning rate multiplies after momentum, no dampening;
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    """
    optim = config.optim
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in _trained_parameters(model):
        kind = decays(config, name), lr_factor(config, name)
        found.setdefault(kind, []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": optim.weight_decay if decayed else 0.0,
            "lr_factor": factor,
        }
        for (decayed, factor), parameters in sorted(found.items(), reverse=True)
    ]
    if optim.name == "adamw":
        return _AdamW(
            groups,
            lr=optim.peak_lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            fused=True,
        )
    assert optim.name == "sgd"  # another one has a branch of its own
    optimizer = _SGD(
        groups,
        lr=optim.peak_lr,
        momentum=optim.momentum,
        dampening=0.0,
        nesterov=optim.nesterov,
        fused=True,
    )
    if optim.momentum:
        for _, parameter in _trained_parameters(model):
            momentum = torch.zeros_like(parameter, requires_grad=False)
            optimizer.state[parameter]["momentum_buffer"] = momentum
    return optimizer


def _trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Canonical name and parameter of each that is not frozen."""
    names = canonical_names(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield names[name], parameter


# torch's names of its state's arrays, by the checkpoint's names.
_NAMES = {
    "adam.m": "exp_avg",
    "adam.v": "exp_avg_sq",
    "momentum": "momentum_buffer",
}


def save_optimizer_state(
    config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> tuple[dict[str, Weights], dict[str, int]]:
    """The optimizer's state: kind -> canonical name -> array, and its step count.

    Collective. Before its first step torch's AdamW has no state, which means zeros.
    """
    state: dict[str, Weights] = {part: {} for part in optimizer_state(config.optim)}
    count, names = 0, canonical_names(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kept = optimizer.state.get(parameter, {})
        for part in state:
            tensor = kept.get(_NAMES[part])
            tensor = torch.zeros_like(parameter) if tensor is None else tensor
            array = save_array(name, names[name], tensor.detach(), world)
            state[part][names[name]] = array
        count = int(kept.get("step", 0))
    counts = OPTIMIZERS[config.optim.name].counts_updates
    return state, {UPDATES: count} if counts else {}


def load_optimizer_state(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    checkpoint: Checkpoint,
    world: World,
) -> None:
    """Restore the optimizer's state from a checkpoint. Collective."""
    names = canonical_names(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        for part in optimizer_state(config.optim):
            array = checkpoint.arrays[part][names[name]]
            tensor = load_array(name, names[name], array, world)
            optimizer.state[parameter][_NAMES[part]] = place_state(tensor, parameter)
        if OPTIMIZERS[config.optim.name].counts_updates:
            steps = float(checkpoint.state[UPDATES])
            count = torch.tensor(steps, device=parameter.device)
            optimizer.state[parameter]["step"] = count


def clip_gradients(
    config: Config, gradients: list[Tensor], norm: Float[Tensor, ""]
) -> None:
    """Scale the gradients by min(1, clip_norm / (norm + 1e-6)), if clip_norm is set.

    Source: Pascanu et al., On the difficulty of training recurrent networks, ICML 2013;
    1e-6 is torch's.
    """
    if config.optim.clip_norm is not None:
        multiply(gradients, (config.optim.clip_norm / (norm + 1e-6)).clamp(max=1.0))


def multiply(gradients: list[Tensor], factor: float | Tensor) -> None:
    """Multiply the gradients in place: one kernel over all, if factor has their dtype.

    Args:
      factor: a number, or a tensor of shape ().
    """
    if isinstance(factor, Tensor):
        factor = factor.to(gradients[0].dtype)
    torch._foreach_mul_(  # pyright: ignore[reportPrivateImportUsage]
        own_shards(gradients), factor
    )


def apply_update(
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    skipped: Bool[Tensor, ""] | None = None,
) -> None:
    """One optimizer step on the gradients that the parameters hold.

    Args:
      skipped: whether it is to change nothing, known on the device alone.
    """
    assert isinstance(optimizer, _Eager)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]
    optimizer.found_inf = None if skipped is None else skipped.float()
    optimizer.step()
