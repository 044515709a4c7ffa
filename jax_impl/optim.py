"""The optimizer, every constant explicit; the learning rate arrives with each step."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jaxtyping import Float

from jax_impl.weights import canonical_name
from recipe.config import Config
from recipe.weights import decays


def build_optimizer(config: Config, params: nnx.State) -> optax.GradientTransformation:
    """SGD or AdamW, with decay on the parameters that `optim.decay` names.

    SGD:   g += decay p;  m = momentum m + g;  p -= lr (g + momentum m | m)
    AdamW: m, v = the moments of g, corrected;  p -= lr (m / (sqrt(v) + eps) + decay p)

    Source: Sutskever et al., On the importance of initialization and momentum, ICML
    2013, in torch's form: the learning rate multiplies after momentum, no dampening;
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    """
    optim = config.optim
    decayed = nnx.from_flat_state(
        [
            (path, variable.replace(decays(config, canonical_name(path))))
            for path, variable in nnx.to_flat_state(params)
        ]
    )
    decay = optax.add_decayed_weights(optim.weight_decay, mask=decayed)
    if optim.name == "adamw":
        moments = optax.scale_by_adam(optim.beta1, optim.beta2, optim.eps)
        return optax.chain(moments, decay)
    momentum = optax.trace(optim.momentum, nesterov=optim.nesterov)
    return optax.chain(decay, momentum if optim.momentum else optax.identity())


def clip_gradients(
    config: Config, gradients: nnx.State, norm: Float[Array, ""]
) -> nnx.State:
    """Scale the gradients by min(1, clip_norm / (norm + 1e-6)), where it is asked for.

    Source: Pascanu et al., On the difficulty of training recurrent networks, ICML 2013;
    1e-6 is torch's.
    """
    if config.optim.clip_norm is None:
        return gradients
    scale = jnp.minimum(1.0, config.optim.clip_norm / (norm + 1e-6))
    return jax.tree.map(lambda g: g * scale, gradients)


def apply_update(
    params: nnx.State, updates: optax.Updates, learning_rate: Array
) -> nnx.State:
    """One optimizer step along the transformed gradients."""
    return jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
