"""The optimizer, every constant explicit; the learning rate arrives with each step."""

import jax
import optax
from flax import nnx
from jax import Array

from jax_impl.weights import canonical_name
from recipe.config import Config
from recipe.weights import decays


def build_optimizer(config: Config, params: nnx.State) -> optax.GradientTransformation:
    """SGD: g += decay p;  m = momentum m + g;  p -= lr (g + momentum m | m).

    Source: Sutskever et al., On the importance of initialization and momentum, ICML
    2013, in torch's form: the learning rate multiplies after momentum, no dampening.
    """
    optim = config.optim
    decayed = nnx.from_flat_state(
        [
            (path, variable.replace(decays(config, canonical_name(path))))
            for path, variable in nnx.to_flat_state(params)
        ]
    )
    momentum = optax.trace(optim.momentum, nesterov=optim.nesterov)
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, mask=decayed),
        momentum if optim.momentum else optax.identity(),
    )


def apply_update(
    params: nnx.State, updates: optax.Updates, learning_rate: Array
) -> nnx.State:
    """One optimizer step along the transformed gradients."""
    return jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
