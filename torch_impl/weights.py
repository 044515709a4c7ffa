"""Canonical weights <-> parameters; every transpose of the PyTorch twin lives here."""

import numpy as np
from torch import Tensor, nn

from recipe.weights import Weights, check_leaves
from torch_impl.parallel import World, replicate, unshard

# Of kernels by rank: dense ones are their own inverse, convolutions go HWIO -> OHWI,
# and OIHW -> HWIO back.
_TO_TORCH = {2: (1, 0), 4: (3, 0, 1, 2)}
_FROM_TORCH = {2: (1, 0), 4: (2, 3, 1, 0)}


def canonical_name(name: str) -> str:
    """torch's `dense.0.weight` is the canonical `dense.0.kernel`."""
    return name.removesuffix("weight") + "kernel" if name.endswith("weight") else name


def canonical_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """Of the tensor `name`, laid out as canonical arrays are; Flax's are so already."""
    shape = tuple(tensor.shape)
    if canonical_name(name).endswith(".kernel") and len(shape) in _FROM_TORCH:
        return tuple(shape[axis] for axis in _FROM_TORCH[len(shape)])
    return shape


def leaf_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Canonical name -> canonical shape of all that the model holds."""
    leaves = model.state_dict()
    return {canonical_name(n): canonical_shape(n, t) for n, t in leaves.items()}


def load_weights(model: nn.Module, weights: Weights, world: World) -> None:
    """Give all that the model holds its canonical numbers, on the rank's device.

    Raises:
      ConfigError: if the model holds other leaves than `weights`.
    """
    check_leaves(leaf_shapes(model), weights)
    tensors = {
        name: load_array(name, weights[canonical_name(name)], world)
        for name in model.state_dict()
    }
    model.load_state_dict(tensors, assign=True)


def load_array(name: str, array: np.ndarray, world: World) -> Tensor:
    """A canonical array as the tensor `name`, whole on the rank's device.

    JAX's twin takes the array as it is.
    """
    if canonical_name(name).endswith(".kernel"):
        array = np.ascontiguousarray(array.transpose(_TO_TORCH[array.ndim]))
    tensor = replicate(array, world)
    if array.ndim != 4:
        return tensor
    # OHWI in memory, as channels-last images make gradients, whose strides DDP wants of
    # parameters too; FSDP shards contiguous ones alone.
    kernel = tensor.permute(0, 3, 1, 2)
    return kernel.contiguous() if world.fsdp else kernel


def save_weights(model: nn.Module, world: World) -> Weights:
    """The parameters and statistics as canonical NumPy arrays."""
    return {
        canonical_name(name): save_array(name, tensor, world)
        for name, tensor in model.state_dict().items()
    }


def save_array(name: str, tensor: Tensor, world: World) -> np.ndarray:
    """The tensor `name` as a canonical NumPy array; a call of all ranks."""
    array = unshard(tensor, world).cpu().numpy()
    if canonical_name(name).endswith(".kernel"):
        array = np.ascontiguousarray(array.transpose(_FROM_TORCH[array.ndim]))
    return array
