"""The initial weights: (seed, architecture) -> named NumPy arrays in canonical layout.

Names, layouts and shapes are `recipe/architecture.py`'s. Each framework's `weights.py`
maps them to its own layout; every transpose is there.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator

from recipe.architecture import Leaf, layers
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.leaves import way_out
from recipe.own_model import own_module
from recipe.prefixes import is_frozen
from recipe.rng import keyed_generator

Weights = dict[str, np.ndarray]
Shape = tuple[int, ...]

# Bits of the significand, with the implicit one (IEEE 754; bfloat16 keeps fp32's
# exponent and 7 bits, TF32 10).
SIGNIFICAND_BITS = {"fp64": 53, "fp32": 24, "tf32": 11, "fp16": 11, "bf16": 8}


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every array of a model, in forward order."""
    return {name: leaf.shape for name, leaf in _leaves(config).items()}


def initial_weights(config: Config) -> Weights:
    """All arrays of a model at step 0: drawn, then perturbed."""
    return perturbed(config, drawn_weights(config))


def drawn_weights(config: Config) -> Weights:
    """Kernels drawn, scales 1, biases 0.

    Each kernel is drawn in float64 from its own generator, keyed by (seed, name), so
    that adding a layer moves no other; fp32 rounds what fp64 uses.
    """
    weights: Weights = {}
    for name, leaf in _leaves(config).items():
        generator = keyed_generator(config.train.seed, "weights", name)
        drawn = _DRAW[leaf.init](generator, leaf.shape)
        weights[name] = drawn.astype(weight_dtype(config))
    return weights


def head_leaves(config: Config) -> tuple[str, ...]:
    """Canonical names of the head, which maps features to the outputs.

    The last layer of a built-in model. For a custom one, the layer that shapes.py
    names: `HEAD = "head"` is `head.kernel` and `head.bias`; none where it names none.

    Raises:
      ConfigError: if it names no layer of the model.
    """
    if config.model.folder is None:
        *_, last = layers(config.model, config.data)
        return tuple(f"{last.name}.{leaf}" for leaf in last.leaves)
    head = getattr(own_module(config.model.folder, "shapes.py"), "HEAD", None)
    if head is None:
        return ()
    names = tuple(name for name in weight_shapes(config) if name.startswith(f"{head}."))
    if not names:
        raise ConfigError(
            f"HEAD={head!r} of shapes.py begins no name of its weight_shapes; name a "
            'layer, as in HEAD = "head" for head.kernel and head.bias'
        )
    return names


def new_head(config: Config) -> list[str]:
    """The leaves that `model.head=new` draws in place of those of `model.weights`."""
    return list(head_leaves(config)) if config.model.head else []


def weight_dtype(config: Config) -> type[np.floating]:
    """The dtype of parameters and statistics."""
    return np.float64 if config.precision.name == "fp64" else np.float32


def random_weights(config: Config, seed: int = 0) -> Weights:
    """Random weights without zeros: zero biases would hide a wrong layer.

    Kernels are drawn as for training, so that a deep model's outputs keep their scale;
    scales lie around 1, variances are positive.
    """
    generator = np.random.default_rng(seed)
    weights = initial_weights(config)
    for name, array in weights.items():
        if name.endswith(".kernel"):
            continue
        drawn = generator.normal(name.endswith(".scale"), 0.2, array.shape)
        if name.endswith(".var"):
            drawn = generator.uniform(0.5, 2, array.shape)
        weights[name] = drawn.astype(array.dtype)
    return weights


def perturbed(config: Config, weights: Weights) -> Weights:
    """Each trained number one unit in the last place away, by `train.perturb_seed`."""
    if not config.train.perturb_seed:
        return weights
    return {
        name: _perturbed(config, array, name) if is_trained(name) else array
        for name, array in weights.items()
    }


def _leaves(config: Config) -> dict[str, Leaf]:
    if config.model.folder is not None:
        own = own_module(config.model.folder, "shapes.py")
        shapes = own.weight_shapes(config)
        return {n: Leaf(tuple(shape), own_init(n)) for n, shape in shapes.items()}
    return {
        f"{layer.name}.{name}": leaf
        for layer in layers(config.model, config.data)
        for name, leaf in layer.leaves.items()
    }


def own_init(name: str) -> str:
    """The initialiser of a custom model's leaf, by its name.

    >>> own_init("stem.kernel"), own_init("norm.scale"), own_init("norm.bias")
    ('he', 'ones', 'zeros')
    """
    leaf = name.rpartition(".")[2]
    inits = {"kernel": "he", "scale": "ones", "var": "ones", "embedding": "embedding"}
    return inits.get(leaf, "zeros")


def _normal(generator: Generator, shape: Shape, variance: float) -> np.ndarray:
    return math.sqrt(variance) * generator.standard_normal(shape)


def _glorot(generator: Generator, shape: Shape) -> np.ndarray:
    bound = math.sqrt(6 / sum(shape))
    return generator.uniform(-bound, bound, shape)


# Initialisers; fan_in is all axes of a kernel but the last.
_DRAW: dict[str, Callable[[Generator, Shape], np.ndarray]] = {
    "zeros": lambda _, shape: np.zeros(shape),
    "ones": lambda _, shape: np.ones(shape),
    # N(0, 2 / fan_in): He et al., Delving Deep into Rectifiers, ICCV 2015.
    "he": lambda g, shape: _normal(g, shape, 2 / math.prod(shape[:-1])),
    # N(0, 1 / fan_in): LeCun et al., Efficient BackProp, 1998.
    "lecun": lambda g, shape: _normal(g, shape, 1 / math.prod(shape[:-1])),
    # U(+-sqrt(6 / (in + out))): Glorot and Bengio, AISTATS 2010; as Dosovitskiy et al.,
    # An Image is Worth 16x16 Words, ICLR 2021, initialise attention and MLPs.
    "glorot": _glorot,
    # N(0, 0.02^2): Dosovitskiy et al.'s position embeddings.
    "embedding": lambda g, shape: _normal(g, shape, 0.02**2),
}


def is_trained(name: str) -> bool:
    """Whether a canonical name is a parameter's; else it is a running statistic's."""
    return not name.endswith((".mean", ".var"))


def is_updated(config: Config, name: str) -> bool:
    """Whether a step moves this leaf: a parameter's that is not frozen."""
    return is_trained(name) and not is_frozen(config, name)


def check_trained(file: str, trained: Mapping[str, bool]) -> None:
    """Refuse a custom model that trains leaves whose names say that they are not.

    Args:
      file: of the model.
      trained: canonical name -> whether training moves it, of all that is held.

    Raises:
      ConfigError: naming every leaf that is called otherwise than it is.
    """
    wrong = [
        f"{name} is trained, and .mean and .var are names of running statistics alone"
        if moved
        else f"{name} is not trained (a buffer, requires_grad=False, or no nnx.Param), "
        "and of leaves running statistics alone are not, .mean and .var"
        for name, moved in trained.items()
        if moved != is_trained(name)
    ]
    if wrong:
        raise ConfigError(
            f"{file}: {'; '.join(wrong)}; name it otherwise in both twins and "
            "shapes.py, and compute what is constant in the forward pass"
        )


def check_leaves(shapes: Mapping[str, Shape], weights: Weights) -> None:
    """Refuse a model whose leaves are not those of its architecture.

    Args:
      shapes: canonical name -> canonical shape of the framework's model.
      weights: that it should have.

    Raises:
      ConfigError: naming every leaf that differs, with both shapes.
    """
    wrong = [
        f"{name} is {shapes.get(name, 'nothing')} in the model and "
        f"{weights[name].shape if name in weights else 'nothing'} in its weight_shapes"
        f"{way_out(name)}"
        for name in dict.fromkeys([*shapes, *weights])
        if name not in shapes
        or name not in weights
        or shapes[name] != weights[name].shape
    ]
    if wrong:
        raise ConfigError(
            f"{'; '.join(wrong)}; docs/own-layers.md says how leaves are named and "
            "laid out"
        )


def parameter_count(config: Config, weights: Weights) -> int:
    """Number of trained parameters, without those of frozen layers."""
    return sum(a.size for name, a in weights.items() if is_updated(config, name))


def moved_bytes(config: Config) -> int:
    """Bytes of the leaves that training moves: without frozen layers, in full."""
    shapes = weight_shapes(config)
    moved = [shape for name, shape in shapes.items() if not is_frozen(config, name)]
    size = np.dtype(weight_dtype(config)).itemsize
    return size * sum(math.prod(shape) for shape in moved)


def _perturbed(config: Config, array: np.ndarray, name: str) -> np.ndarray:
    """Each number one unit in the last place up or down; zeros stay zero.

    The ulp is of the compute dtype: one of the fp32 parameters would vanish in the cast
    to 16 bits.
    """
    # "nudge", as it was called first: another word would draw other numbers.
    generator = keyed_generator(config.train.perturb_seed, "nudge", name)
    up = generator.integers(2, size=array.shape) == 1
    _, exponent = np.frexp(array)
    ulp = np.ldexp(1.0, exponent - SIGNIFICAND_BITS[config.precision.name])
    # Beside zero all is subnormal; flushed in one framework, it moves nothing.
    moved = np.where(array == 0, 0.0, np.where(up, ulp, -ulp))
    return array + moved.astype(array.dtype)


def decays(config: Config, name: str) -> bool:
    """Whether weight decay applies to a parameter: the one rule, `optim.decay`."""
    return config.optim.decay == "all" or name.endswith(".kernel")
