"""The optimizer, with all constants explicit; each step passes the learning rate."""

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jaxtyping import Float

from jax_impl.freeze import split_frozen
from jax_impl.parallel import World
from jax_impl.precision import parameter_dtype
from jax_impl.weights import canonical_name, save_array
from recipe.config import Config
from recipe.optimizers import UPDATES
from recipe.prefixes import lr_factor
from recipe.weights import Weights, decays
from record.checkpoint import Checkpoint


def build_optimizer(config: Config, params: nnx.State) -> optax.GradientTransformation:
    """SGD or AdamW, with decay on the parameters that `optim.decay` names.

    Frozen parameters are not in it, and have no state.

    SGD:   g += decay p;  m = momentum m + g;  p -= lr (g + momentum m | m)
    AdamW: m, v = the moments of g, corrected;  p -= lr (m / (sqrt(v) + eps) + decay p)

    Source: Sutskever et al., On the importance of initialization and momentum, ICML
    2013, in torch's form: the learning rate multiplies after momentum, no dampening;
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    """
    optim = config.optim
    trained, _ = split_frozen(config, params)
    decayed = _by_name(trained, lambda name: decays(config, name))
    decay = optax.add_decayed_weights(optim.weight_decay, mask=decayed)
    if optim.name == "adamw":
        return optax.chain(corrected_moments(config), decay)
    assert optim.name == "sgd"  # another one has a branch of its own
    momentum = optax.trace(optim.momentum, nesterov=optim.nesterov)
    return optax.chain(decay, momentum if optim.momentum else optax.identity())


def _by_name(params: nnx.State, value: Callable[[str], Any]) -> nnx.State:
    """A tree as that of the parameters, with a value for each one's canonical name."""
    return nnx.from_flat_state(
        [
            (path, variable.replace(value(canonical_name(path, variable))))
            for path, variable in nnx.to_flat_state(params)
        ]
    )


def corrected_moments(config: Config) -> optax.GradientTransformation:
    """optax's scale_by_adam, with 1 - beta^t = -expm1(t ln(beta)), ln(beta) of fp64.

    optax computes 1 - beta^t in fp32, where rounding of .999 makes it 1.3e-5 too small
    at first, and each update by 6e-6. torch computes it in fp64.
    """
    optim = config.optim
    betas, eps = (optim.beta1, optim.beta2), optim.eps
    logs = [math.log(beta) if beta else -math.inf for beta in betas]
    adam = optax.scale_by_adam(*betas, eps)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        _, new = adam.update(updates, state, params)
        assert isinstance(new, optax.ScaleByAdamState)
        count = jnp.asarray(new.count, parameter_dtype(config))
        first, second = (-jnp.expm1(count * log) for log in logs)
        corrected = jax.tree.map(
            lambda m, v: (m / first) / (jnp.sqrt(v / second) + eps), new.mu, new.nu
        )
        return corrected, new

    return optax.GradientTransformation(adam.init, update)


# optax's names of its state's arrays, by the checkpoint's names.
_NAMES = {"adam.m": "mu", "adam.v": "nu", "momentum": "trace"}


def save_optimizer_state(
    state: optax.OptState, world: World
) -> tuple[dict[str, Weights], dict[str, int]]:
    """The optimizer's state: kind -> canonical name -> array, and its step count.

    Collective.
    """
    saved: dict[str, Weights] = {}
    counts: dict[str, int] = {}
    for part in cast(tuple[Any, ...], state):
        for name, its_name in _names(part).items():
            saved[name] = {
                canonical_name(path, variable): save_array(variable.get_value(), world)
                for path, variable in nnx.to_flat_state(getattr(part, its_name))
            }
        if isinstance(part, optax.ScaleByAdamState):
            count = cast(jax.Array, part.count)
            counts[UPDATES] = int(save_array(count, world).max())  # equal on replicas
    return saved, counts


def load_optimizer_state(
    state: optax.OptState, checkpoint: Checkpoint
) -> optax.OptState:
    """The optimizer's state, restored from a checkpoint."""
    filled = []
    for part in cast(tuple[Any, ...], state):
        for name, its_name in _names(part).items():
            arrays = checkpoint.arrays[name]
            leaves = nnx.from_flat_state(
                [
                    (path, variable.replace(arrays[canonical_name(path, variable)]))
                    for path, variable in nnx.to_flat_state(getattr(part, its_name))
                ]
            )
            part = part._replace(**{its_name: leaves})
        if isinstance(part, optax.ScaleByAdamState):
            count = np.int32(checkpoint.state[UPDATES])
            part = part._replace(count=count)
        filled.append(part)
    return tuple(filled)


def _names(part: Any) -> dict[str, str]:
    """The names of arrays in a part of optax's state, by the checkpoint's names."""
    return {ours: its for ours, its in _NAMES.items() if its in part._fields}


def clip_gradients(
    config: Config, gradients: nnx.State, norm: Float[Array, ""]
) -> nnx.State:
    """Scale the gradients by min(1, clip_norm / (norm + 1e-6)), if clip_norm is set.

    Source: Pascanu et al., On the difficulty of training recurrent networks, ICML 2013;
    1e-6 is torch's.
    """
    if config.optim.clip_norm is None:
        return gradients
    scale = jnp.minimum(1.0, config.optim.clip_norm / (norm + 1e-6))
    return jax.tree.map(lambda g: g * scale, gradients)


def apply_update(
    config: Config, params: nnx.State, updates: optax.Updates, learning_rate: Array
) -> nnx.State:
    """One optimizer step along the transformed gradients."""
    factors = _by_name(params, lambda name: lr_factor(config, name))

    def moved(p: Array, u: Array, factor: float) -> Array:
        return p - (learning_rate if factor == 1 else learning_rate * factor) * u

    return jax.tree.map(moved, params, updates, factors)
