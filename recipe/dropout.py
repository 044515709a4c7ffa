"""Dropout: the numbers from which both twins compute the same masks.

A unit u of an example with key k is kept where `mix(u x UNIT ^ k)`, over 32-bit words,
is at least `least_kept(rate)`; `mix` is, for each of ROUNDS, `w ^= w >> shift; w *=
factor`. Either `layers.py` has it as `kept`.

Keys and not masks are drawn in NumPy (`data/dropout.py`): a step of vit_tiny on 512
images drops from 151 million units, which are 19 MB as bits, and 48 kB of keys.
Integers leave nothing to rounding, so the masks are equal to the bit.

A custom model has the layers that its shapes.py names; the n-th repeated call of one in
a forward pass, n from 1, takes the word of unit n as key.
"""

from collections.abc import Mapping

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.own_model import own_module

WORD = 0xFFFFFFFF
UNIT = 0x9E3779B9  # 2^32 over the golden ratio, odd: neighbours lie far apart

# Splitmix32's, found by Wellons' hash-prospector. Both factors are less than 2^31, so
# torch's int64 holds their product with a word. Its last xor-shift is omitted: it does
# not change the highest 15 bits, which decide for all but one unit in 2^15.
ROUNDS = ((16, 0x21F0AAAD), (15, 0x735A2D97))


def least_kept(rate: float) -> int:
    """The least word whose unit is kept, where a fraction `rate` of all is dropped.

    >>> least_kept(0.25) / 2**32
    0.25
    """
    return min(round(rate * 2**32), WORD)


def dropout_layers(config: Config) -> tuple[str, ...]:
    """Canonical names of the layers that are dropped from, in forward order.

    After the ReLU of hidden dense layers; in a transformer before the residual
    connections, as Dosovitskiy et al., ICLR 2021, do. For a custom model in the order
    of its shapes.py, without those of rate 0.
    """
    if config.model.folder is not None:
        return tuple(name for name, rate in own_rates(config).items() if rate)
    if not config.model.dropout:
        return ()
    if config.model.name == "vit_tiny":
        parts = "attention.out", "mlp.1"
        blocks = range(config.model.blocks)
        return tuple(f"block.{i}.{part}" for i in blocks for part in parts)
    return tuple(f"dense.{i}" for i, _ in enumerate(config.model.hidden))


def own_rates(config: Config) -> dict[str, float]:
    """Name -> rate of the dropout layers that a custom shapes.py lists, if any."""
    own = own_module(str(config.model.folder), "shapes.py")
    listed = getattr(own, "dropout_rates", None)
    return {} if listed is None else dict(listed(config))


def rate_leaves(rates: Mapping[str, float]) -> dict[str, float]:
    """The layers as leaves, to be compared like those with shapes.

    >>> rate_leaves({"drop": 0.5})
    {'drop.rate': 0.5}
    """
    return {f"{name}.rate": rate for name, rate in rates.items()}


def check_rate(name: str, rate: float) -> None:
    """Refuse an invalid rate in a custom model.

    Raises:
      ConfigError: naming the layer and its rate.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"{name}: the rate of dropout must lie in [0, 1), got {rate}")


def check_rates(held: Mapping[str, float], listed: Mapping[str, float]) -> None:
    """Refuse a custom model whose dropout differs from its shapes.py.

    Args:
      held: name -> rate of the dropout layers of a framework's model.
      listed: the same in shapes.py.

    Raises:
      ConfigError: naming every layer that differs.
    """
    wrong = [
        f"{name} drops {held.get(name, 'nothing')} in the model and "
        f"{listed.get(name, 'nothing')} in dropout_rates of its shapes.py"
        for name in dict.fromkeys([*held, *listed])
        if held.get(name) != listed.get(name)
    ]
    if wrong:
        raise ConfigError(
            f"{'; '.join(wrong)}; dropout_rates(config) is to give the name and rate "
            "of every dropout layer, as docs/own-layers.md shows"
        )


def check_call(
    name: str, rows: int, examples: int | None, evaluates: bool, off: str
) -> None:
    """Refuse a call of a custom dropout layer for which there are no masks.

    Args:
      name: the layer's, with its file.
      rows: along the first axis of its input.
      examples: of the batch, which has keys; else None.
      evaluates: whether the model's forward pass has no keys, as in evaluation.
      off: how the framework's layer is turned off there.

    Raises:
      ConfigError: naming the layer.
    """
    if evaluates:
        raise ConfigError(
            f"{name}: dropout is on in evaluation, for which there are no keys for its "
            f"masks, and which is not to be random; {off}"
        )
    if examples is None:
        raise ConfigError(
            f"{name}: dropout is called in training, but not within the model's own "
            "forward pass, so there are no keys for its masks; activation "
            "checkpointing (torch.utils.checkpoint) does that, leave it out"
        )
    if rows != examples:
        raise ConfigError(
            f"{name}: dropout of {rows} rows in a batch of {examples} examples; each "
            "example has its own mask, so the first axis must count the examples: "
            "drop before it is merged with another or moved"
        )
