"""Canonical weights <-> parameters; every transpose of the PyTorch twin is here."""

import re

import numpy as np
from torch import Tensor, nn

from recipe.weights import Weights, check_leaves
from torch_impl.parallel import World, replicate, unshard

# Of kernels by rank: for dense ones and sequences the inverse is the same, kernels of
# images go HWIO -> OHWI, and OIHW -> HWIO back.
_TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 0, 1, 2), 5: (4, 3, 0, 1, 2)}
_FROM_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}

# Names that differ from Flax's; what `weight` means depends on the module.
_CANONICAL = {"running_mean": "mean", "running_var": "var"}
_COUNTER = "num_batches_tracked"  # not a weight; only used with momentum=None
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
# Gates are in torch's order, r z n and i f g o, as in Flax's GRUCell and
# OptimizedLSTMCell: the kernels only need a transpose. A cell's leaves have no layer.
_RECURRENT = re.compile(r"(weight|bias)_([ih])h(?:_l(\d+))?")


def canonical_names(model: nn.Module) -> dict[str, str]:
    """torch's name of each leaf -> its canonical name, without batch counters.

    A leaf with several names gets one: an embedding's, else the alphabetically first.
    """
    names = {
        f"{path}.{leaf}".removeprefix("."): _canonical_leaf(path, module, leaf, tensor)
        for path, module in model.named_modules(remove_duplicate=False)
        for leaf, tensor in {**module._parameters, **module._buffers}.items()
        if tensor is not None and leaf != _COUNTER
    }
    shared: dict[int, list[str]] = {}
    of_modules = model.named_parameters, model.named_buffers
    every = (pair for of in of_modules for pair in of(remove_duplicate=False))
    held = {name: leaf for name, leaf in every if name in names}
    for name, leaf in held.items():
        shared.setdefault(id(leaf), []).append(names[name])
    ranked = {
        key: min(found, key=lambda n: (not n.endswith("embedding"), n))
        for key, found in shared.items()
    }
    # In the order of the state_dict, which omits non-persistent buffers.
    return {
        name: ranked[id(held[name])] for name in model.state_dict() if name in names
    }


def _canonical_leaf(path: str, module: nn.Module, leaf: str, tensor: Tensor) -> str:
    """torch's `norm.weight` is the canonical `norm.scale`, `dense.0.weight` a kernel.

    JAX's twin needs only the path.
    """
    recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase)
    if recurrent and (found := _RECURRENT.fullmatch(leaf)):
        several = isinstance(module, nn.RNNBase) and module.num_layers > 1
        layer = [found[3]] if several else []
        kind = "kernel" if found[1] == "weight" else "bias"
        parts = [path, *layer, f"dense_{found[2]}", kind]
    elif leaf != "weight":
        parts = [path, _CANONICAL.get(leaf, leaf)]
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        parts = [path, "embedding"]
    elif isinstance(module, nn.PReLU):
        parts = [path, "negative_slope"]
    else:
        scale = isinstance(module, _NORMS) or tensor.ndim < 2
        parts = [path, "scale" if scale else "kernel"]
    return ".".join(filter(None, parts))


def leaf_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Canonical name -> canonical shape of the model's leaves."""
    leaves = model.state_dict()
    return {
        canonical: canonical_shape(name, canonical, leaves[name])
        for name, canonical in canonical_names(model).items()
    }


def canonical_shape(name: str, canonical: str, tensor: Tensor) -> tuple[int, ...]:
    """The canonical shape of a tensor of these names; Flax's already is."""
    shape = tuple(tensor.shape)
    if _is("kernel", name, canonical) and len(shape) in _FROM_TORCH:
        return tuple(shape[axis] for axis in _FROM_TORCH[len(shape)])
    if _is("negative_slope", name, canonical) and shape == (1,):
        return ()
    return shape


def trained_leaves(model: nn.Module) -> dict[str, bool]:
    """Canonical name -> whether training moves it, of all that the model holds."""
    leaves = model.state_dict(keep_vars=True)
    return {
        canonical: leaves[name].requires_grad
        for name, canonical in canonical_names(model).items()
    }


def load_weights(model: nn.Module, weights: Weights, world: World) -> None:
    """Load canonical weights into the model, on the rank's device.

    Raises:
      ConfigError: if the model has other leaves than `weights`.
    """
    check_leaves(leaf_shapes(model), weights)
    names = canonical_names(model)
    first = {canonical: name for name, canonical in reversed(names.items())}
    arrays = {c: load_array(n, c, weights[c], world) for c, n in first.items()}
    tensors = {
        name: arrays[names[name]] if name in names else _no_count(world)
        for name in model.state_dict()
    }
    held = dict(model.named_parameters(remove_duplicate=False))
    model.load_state_dict(tensors, assign=True)
    _share_again(model, held)


def _no_count(world: World) -> Tensor:
    return replicate(np.zeros((), np.int64), world)


def _share_again(model: nn.Module, before: dict[str, nn.Parameter]) -> None:
    """Tie parameters again that were shared before each name got its own.

    In JAX a shared variable is one leaf throughout.

    Args:
      before: the parameters by all their names.
    """
    first: dict[int, nn.Parameter] = {}
    for name, parameter in before.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        kept = first.setdefault(id(parameter), getattr(module, leaf))
        if getattr(module, leaf) is not kept:
            setattr(module, leaf, kept)


def load_array(name: str, canonical: str, array: np.ndarray, world: World) -> Tensor:
    """A canonical array of these names as a whole tensor on the rank's device.

    JAX's twin uses the array unchanged.
    """
    if _is("kernel", name, canonical):
        array = np.ascontiguousarray(array.transpose(_TO_TORCH[array.ndim]))
    elif _is("negative_slope", name, canonical):
        array = array.reshape(-1)
    tensor = replicate(array, world)
    if not _is("kernel", name, canonical) or array.ndim != 4:
        return tensor
    # OHWI in memory, as gradients are for channels-last images: DDP wants the same
    # strides for parameters. FSDP shards only contiguous ones.
    kernel = tensor.permute(0, 3, 1, 2)
    return kernel.contiguous() if world.sharded else kernel


def save_weights(model: nn.Module, world: World) -> Weights:
    """The parameters and statistics as canonical NumPy arrays."""
    leaves = model.state_dict()
    return {
        canonical: save_array(name, canonical, leaves[name], world)
        for name, canonical in canonical_names(model).items()
    }


def save_array(name: str, canonical: str, tensor: Tensor, world: World) -> np.ndarray:
    """The tensor of these names as a canonical NumPy array. Collective."""
    array = unshard(tensor, world).cpu().numpy()
    if _is("kernel", name, canonical):
        array = np.ascontiguousarray(array.transpose(_FROM_TORCH[array.ndim]))
    elif _is("negative_slope", name, canonical) and array.shape == (1,):
        array = array.reshape(())
    return array


def _is(kind: str, name: str, canonical: str) -> bool:
    """Whether torch's layout of a leaf may be another than Flax's.

    A kernel has its axes in another order, the one slope of an `nn.PReLU` one too many.
    What a user calls so in torch as well is as in Flax.
    """
    leaf, canonical_leaf = (n.rpartition(".")[2] for n in (name, canonical))
    return canonical_leaf == kind and leaf != kind
