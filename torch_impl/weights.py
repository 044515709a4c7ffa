"""Canonical weights <-> parameters; every transpose of the PyTorch twin lives here."""

import numpy as np
from torch import nn

from recipe.weights import Weights
from torch_impl.parallel import World, replicate, unshard

# Of kernels by rank: dense ones are their own inverse, convolutions go HWIO -> OHWI,
# and OIHW -> HWIO back.
_TO_TORCH = {2: (1, 0), 4: (3, 0, 1, 2)}
_FROM_TORCH = {2: (1, 0), 4: (2, 3, 1, 0)}


def canonical_name(name: str) -> str:
    """torch's `dense.0.weight` is the canonical `dense.0.kernel`."""
    return name.removesuffix("weight") + "kernel" if name.endswith("weight") else name


def load_weights(model: nn.Module, weights: Weights, world: World) -> None:
    """Give all that the model holds its canonical numbers, on the rank's device."""
    tensors = {}
    for name in model.state_dict():
        array = weights[canonical_name(name)]
        if canonical_name(name).endswith(".kernel"):
            array = np.ascontiguousarray(array.transpose(_TO_TORCH[array.ndim]))
        tensors[name] = replicate(array, world)
        if array.ndim == 4:
            # OHWI in memory, as channels-last images make gradients, whose strides DDP
            # wants of parameters too; FSDP shards contiguous ones alone.
            kernel = tensors[name].permute(0, 3, 1, 2)
            tensors[name] = kernel.contiguous() if world.fsdp else kernel
    model.load_state_dict(tensors, assign=True)


def save_weights(model: nn.Module, world: World) -> Weights:
    """The parameters and statistics as canonical NumPy arrays."""
    weights = {}
    for name, tensor in model.state_dict().items():
        array = unshard(tensor, world).cpu().numpy()
        if canonical_name(name).endswith(".kernel"):
            array = np.ascontiguousarray(array.transpose(_FROM_TORCH[array.ndim]))
        weights[canonical_name(name)] = array
    return weights
