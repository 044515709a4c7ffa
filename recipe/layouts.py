"""The same weights in other projects' layouts: names and transposes, nothing else.

torchvision: the `state_dict` of `torchvision.models.resnet18` and `resnet50`.
huggingface: the `state_dict` of transformers' `ResNetForImageClassification`, as the
Hub's microsoft/resnet-18 and resnet-50 are; timm's files have torchvision's names.
flax: the variables of Flax's ImageNet example (`examples/imagenet/models.py`), which
many projects copied, as `flax.traverse_util.flatten_dict(variables, sep="/")`.

Converting a layout does not make the networks equal: Flax's example pads strided
convolutions and the max-pool with "SAME", which shifts them by one pixel to the lower
right of torchvision's and Duet's, so weights trained in one lose some accuracy in the
other.
"""

from typing import NamedTuple

import numpy as np

from recipe.architecture import RESNETS, STEM_KERNELS
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.weights import Weights, head_leaves, weight_shapes

LAYOUTS = ("canonical", "torchvision", "huggingface", "flax")

# Prefixes that DDP and torch.compile add to the names of the wrapped model.
WRAPPERS = ("module.", "_orig_mod.")


# Leaves that torch's modules call otherwise.
TORCHS_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


class Place(NamedTuple):
    """Where a canonical array is in a layout.

    Args:
      name: its name there.
      axes: of the canonical array, in the layout's order.
    """

    name: str
    axes: tuple[int, ...]


def places(config: Config, layout: str) -> dict[str, Place]:
    """Canonical name -> place, for all that the model holds.

    Raises:
      ConfigError: if the layout is unknown, or has no such architecture.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout={layout} is unknown; one of: {', '.join(LAYOUTS)}")
    if layout != "canonical" and config.model.name not in RESNETS:
        raise ConfigError(
            f"layout={layout} is known for {', '.join(RESNETS)}, not for "
            f"{config.model.name}; use layout=canonical"
        )
    name_in = {
        "canonical": _canonical,
        "torchvision": _torchvision,
        "huggingface": _huggingface,
        "flax": _flax,
    }
    found = {}
    for name, shape in weight_shapes(config).items():
        axes = tuple(range(len(shape)))
        if layout in ("torchvision", "huggingface") and name.endswith(".kernel"):
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}[len(shape)]
        found[name] = Place(name_in[layout](config, name), axes)
    return found


def to_layout(config: Config, weights: Weights, layout: str) -> Weights:
    """Canonical arrays under a layout's names and in its order of axes."""
    return {
        place.name: np.ascontiguousarray(weights[name].transpose(place.axes))
        for name, place in places(config, layout).items()
    }


def from_layout(config: Config, arrays: Weights) -> Weights:
    """Canonical arrays from those of the layout with these names.

    Other names are ignored (such as torchvision's batch counters). With
    `model.head=new` so is the head, which is not returned then.

    Raises:
      ConfigError: naming the array that is missing, or has another shape or dtype.
    """
    head = _left_head(config)
    for wrapper in WRAPPERS:
        if arrays and all(name.startswith(wrapper) for name in arrays):
            arrays = {name.removeprefix(wrapper): a for name, a in arrays.items()}
    known = LAYOUTS if config.model.name in RESNETS else ("canonical",)
    candidates = [places(config, layout) for layout in known]
    nearest = max(candidates, key=lambda c: sum(p.name in arrays for p in c.values()))
    if head and nearest is candidates[0]:
        _refuse_more_layers(config, arrays)
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name in head:
            continue
        place = nearest[name]
        if place.name not in arrays:
            raise ConfigError(
                f"{place.name} is missing, {config.model.name} needs it; layouts that "
                f"are understood: {', '.join(known)}"
            )
        wanted = tuple(shape[axis] for axis in place.axes)
        given = arrays[place.name]
        if given.shape != wanted:
            way_out = _way_out(config, name, given.shape, place.axes)
            raise ConfigError(
                f"{place.name} has shape {given.shape}, but {config.model.name} at "
                f"model.width={config.model.width} with {config.data.classes} classes "
                f"needs {wanted}{way_out}"
            )
        if not np.issubdtype(given.dtype, np.floating):
            raise ConfigError(
                f"{place.name} is {given.dtype}; weights are real numbers, float16 to "
                "float64"
            )
        weights[name] = given.transpose(np.argsort(place.axes))
    return weights


def _left_head(config: Config) -> tuple[str, ...]:
    """The leaves that `model.head=new` does not load."""
    if config.model.head is None:
        return ()
    head = head_leaves(config)
    if not head:
        raise ConfigError(
            f"model.head={config.model.head}, but {config.model.folder}/shapes.py does "
            'not say which layer is the head; add HEAD = "head" there, of '
            f"{', '.join(weight_shapes(config))}"
        )
    if len(head) == len(weight_shapes(config)):
        raise ConfigError(
            f"model.head={config.model.head} leaves nothing to load: "
            f"{', '.join(head)} is all of {config.model.name}; leave model.weights out"
        )
    return head


def _refuse_more_layers(config: Config, arrays: Weights) -> None:
    """Refuse a deeper MLP's file: its extra layers would be dropped silently."""
    more = [name for name in arrays if name not in weight_shapes(config)]
    if more:
        raise ConfigError(
            f"holds {', '.join(sorted(more))}, which {config.model.name} as configured "
            "does not have; model.head=new skips the head alone"
        )


def _way_out(
    config: Config, name: str, given: tuple[int, ...], axes: tuple[int, ...]
) -> str:
    """What to do about an array with another shape than the model's.

    Args:
      given: its shape.
      axes: of the canonical array, in its order.
    """
    needed = weight_shapes(config)[name]
    if len(given) != len(needed):
        return ""
    canonical = tuple(given[axis] for axis in np.argsort(axes))
    if name in head_leaves(config) and canonical[:-1] == needed[:-1]:
        return (
            f"; the file's head has {canonical[-1]} classes: train on data with as "
            "many, or use model.head=new to draw a new head and load the rest"
        )
    if name == "stem.conv.kernel" and config.model.name in RESNETS:
        for stem, kernel in STEM_KERNELS.items():
            if canonical == (kernel, kernel, *needed[2:]):
                return f"; model.stem={stem} has a kernel of {kernel}x{kernel}"
    return ""


def _canonical(config: Config, name: str) -> str:
    return name


def _torchvision(config: Config, name: str) -> str:
    """torchvision's `layer1.0.bn2.running_var` is `stage.0.block.0.norm.1.var`."""
    *path, leaf = name.split(".")
    leaf = TORCHS_LEAVES.get(leaf, leaf)
    match path:
        case ["head"]:
            return f"fc.{leaf}"
        case ["stem", "conv" | "norm" as kind]:
            return f"{_short(kind)}1.{leaf}"
        case ["stage", i, "block", j, "shortcut", kind]:
            return f"layer{int(i) + 1}.{j}.downsample.{int(kind == 'norm')}.{leaf}"
        case ["stage", i, "block", j, kind, k]:
            return f"layer{int(i) + 1}.{j}.{_short(kind)}{int(k) + 1}.{leaf}"
    raise AssertionError(name)


def _huggingface(config: Config, name: str) -> str:
    """`resnet.encoder.stages.0.layers.0.layer.1.normalization.running_var` is it here.

    Source: transformers, models/resnet/modeling_resnet.py.
    """
    *path, leaf = name.split(".")
    leaf = TORCHS_LEAVES.get(leaf, leaf)
    kinds = {"conv": "convolution", "norm": "normalization"}
    match path:
        case ["head"]:
            return f"classifier.1.{leaf}"
        case ["stem", kind]:
            return f"resnet.embedder.embedder.{kinds[kind]}.{leaf}"
        case ["stage", i, "block", j, *rest]:
            block = f"resnet.encoder.stages.{i}.layers.{j}"
            if rest[0] == "shortcut":
                return f"{block}.shortcut.{kinds[rest[1]]}.{leaf}"
            return f"{block}.layer.{rest[1]}.{kinds[rest[0]]}.{leaf}"
    raise AssertionError(name)


def _short(kind: str) -> str:
    return {"conv": "conv", "norm": "bn"}[kind]


def _flax(config: Config, name: str) -> str:
    """Flax's `batch_stats/ResNetBlock_0/BatchNorm_1/var` is the same one."""
    *path, leaf = name.split(".")
    form = RESNETS[config.model.name]
    top = "batch_stats" if leaf in ("mean", "var") else "params"
    block_name = "ResNetBlock" if form.expansion == 1 else "BottleneckResNetBlock"
    match path:
        case ["head"]:
            return f"{top}/Dense_0/{leaf}"
        case ["stem", kind]:
            return f"{top}/{_short(kind)}_init/{leaf}"
        case ["stage", i, "block", j, *rest]:
            block = f"{top}/{block_name}_{sum(form.blocks[: int(i)]) + int(j)}"
            if rest[0] == "shortcut":
                return f"{block}/{rest[1]}_proj/{leaf}"
            kind = {"conv": "Conv", "norm": "BatchNorm"}[rest[0]]
            return f"{block}/{kind}_{rest[1]}/{leaf}"
    raise AssertionError(name)
