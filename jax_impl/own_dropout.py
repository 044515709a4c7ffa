"""Dropout of a custom model: its nnx.Dropout, with the same masks as torch's twin.

Shapes: B batch, L layers with dropout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
from flax import linen, nnx
from jax import Array
from jaxtyping import Float, Int

from jax_impl.layers import drop, words
from jax_impl.precision import parameter_dtype
from jax_impl.weights import canonical_name
from recipe.config import Config
from recipe.dropout import check_call, check_rate, dropout_layers
from recipe.errors import ConfigError

# What drops in Flax Linen, and what its rate is called there.
_LINEN = {linen.Dropout: "rate", linen.MultiHeadDotProductAttention: "dropout_rate"}
OFF = "leave it to model.eval(), and call it without deterministic=False"


class KeyedDropout(nnx.Dropout):
    """A custom model's dropout, with masks from the examples' keys.

    Every call in a forward pass has its own mask; evaluation drops nothing. Kept units
    are scaled as in `layers.Dropout`.
    """

    name: str
    kind: str  # its class's, as the user has it
    layer: int  # the column of its keys
    dtype: Any  # of the scaling
    keys_BL: Int[Array, "B L"] | None
    evaluates: bool  # this forward pass, which has no keys
    calls: int  # of this forward pass so far

    def __call__(
        self,
        inputs: Float[Array, "B ..."],
        *,
        deterministic: bool | None = None,
        rngs: Any = None,
    ) -> Float[Array, "B ..."]:
        """As nnx.Dropout; `rngs` is not used."""
        off = self.deterministic if deterministic is None else deterministic
        if not self.rate or off:
            return inputs
        keys_BL = self.keys_BL
        examples = None if keys_BL is None else len(keys_BL)
        name = f"jax_model.py: {self.name}"
        check_call(name, len(inputs), examples, self.evaluates, OFF)
        assert keys_BL is not None
        keys_B = keys_BL[:, self.layer]
        if self.calls:
            call = jnp.full(1, self.calls, jnp.uint32)
            keys_B = words(keys_B, call)[:, 0]
        self.calls += 1
        return drop(inputs, keys_B, self.rate, self.dtype)


def key_dropout(config: Config, model: nnx.Module) -> None:
    """Replace the dropout of a custom model by Duet's, in place.

    The model then takes the examples' keys after the images; without them, in
    evaluation, nothing is dropped. A layer with two names has the alphabetically first.

    Raises:
      ConfigError: if a layer is of another kind, or its rate is invalid.
    """
    listed = dropout_layers(config)
    found = {
        canonical_name(path): layer
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, nnx.Dropout)
    }
    for name, layer in found.items():
        if type(layer) is not nnx.Dropout or layer.broadcast_dims:
            shared = f" with broadcast_dims={layer.broadcast_dims}"
            raise ConfigError(
                f"jax_model.py: {name} is of {type(layer).__name__}"
                f"{shared if layer.broadcast_dims else ''}; only nnx.Dropout is "
                f"supported, without shared masks"
            )
        check_rate(name, layer.rate)
        kind, layer.__class__ = type(layer).__name__, KeyedDropout
        assert isinstance(layer, KeyedDropout)
        layer.kind = kind
        layer.name, layer.dtype = name, parameter_dtype(config)
        layer.layer = listed.index(name) if name in listed else -1
        layer.rngs = nnx.data(None)  # a generator's state is not a weight
        layer.keys_BL, layer.calls, layer.evaluates = nnx.data(None), 0, False
    if found:
        _take_keys(model)


@contextmanager
def no_linen_dropout() -> Iterator[None]:
    """Refuse dropout of Flax Linen's wherever a module of it is called in here.

    A user's model calls its own to be initialised.

    Raises:
      ConfigError: naming the layer and its rate.
    """

    def refuse(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        for kind, its_rate in _LINEN.items():
            if isinstance(module, kind) and (rate := getattr(module, its_rate)):
                raise ConfigError(
                    f"jax_model.py: {'.'.join(module.path)} is a linen."
                    f"{type(module).__name__} with {its_rate}={rate}, which draws from "
                    "Flax's generator, and torch draws other numbers; hold an "
                    "nnx.Dropout between two Linen modules, as docs/own-layers.md says"
                )
        return call(*args, **kwargs)

    with linen.intercept_methods(refuse):
        yield


def held_rates(model: nnx.Module) -> dict[str, float]:
    """Name -> rate of the model's dropout layers."""
    return {layer.name: layer.rate for layer in _layers(model)}


def _layers(model: nnx.Module) -> list[KeyedDropout]:
    modules = nnx.iter_modules(model)
    return [layer for _, layer in modules if isinstance(layer, KeyedDropout)]


def _take_keys(model: nnx.Module) -> None:
    """Make a call pass the keys to the layers, and only the images to the model.

    Python looks up `__call__` on the class, so the model gets its own class.
    """
    kind = type(model)

    def call(self: Any, images: Array, keys_BL: Array | None = None) -> Any:
        for layer in _layers(self):
            layer.keys_BL, layer.calls = nnx.data(keys_BL), 0
            layer.evaluates = keys_BL is None
        output = kind.__call__(self, images)
        for layer in _layers(self):
            layer.keys_BL, layer.calls, layer.evaluates = nnx.data(None), 0, False
        return output

    model.__class__ = type(kind.__name__, (kind,), {"__call__": call})
