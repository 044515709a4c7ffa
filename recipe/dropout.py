"""Which units training drops: the numbers that both twins compute the same mask from.

A unit u of an example with key k is kept where `mix(u x UNIT ^ k)`, over 32-bit words,
is at least `least_kept(rate)`; `mix` is, for each of ROUNDS, `w ^= w >> shift; w *=
factor`. Either `layers.py` has it as `kept`.

Keys and not masks are drawn in NumPy (`data/dropout.py`): a step of vit_tiny on 512
images drops from 151 million units, which are 19 MB as bits, and 48 kB of keys.
Integers leave nothing to rounding, so the masks are equal to the bit.

A model of the user's own has the layers that its shapes.py names; one that is called
again in a forward pass takes, for its n-th call, n from 1, the word of unit n as key.
"""

from collections.abc import Mapping

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.own_model import own_module

WORD = 0xFFFFFFFF
UNIT = 0x9E3779B9  # 2^32 over the golden ratio, odd: neighbours lie far apart

# Splitmix32's, found by Wellons' hash-prospector. Both factors are less than 2^31, so
# torch's int64 holds their product with a word. Its last xor-shift is left out: it
# changes none of the highest 15 bits, which decide but for one unit in 2^15.
ROUNDS = ((16, 0x21F0AAAD), (15, 0x735A2D97))


def least_kept(rate: float) -> int:
    """The least word whose unit is kept, where a share `rate` of all is not.

    >>> least_kept(0.25) / 2**32
    0.25
    """
    return min(round(rate * 2**32), WORD)


def dropout_layers(config: Config) -> tuple[str, ...]:
    """Canonical names of the layers that are dropped from, in forward order.

    After the ReLU of hidden dense layers; in a transformer before the residual
    connections, as Dosovitskiy et al., ICLR 2021, do. Of a user's own model in the
    order of its shapes.py, without those of rate 0.
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
    """Name -> rate of the dropout layers that a user's own shapes.py lists, if any."""
    own = own_module(str(config.model.folder), "shapes.py")
    listed = getattr(own, "dropout_rates", None)
    return {} if listed is None else dict(listed(config))


def rate_leaves(rates: Mapping[str, float]) -> dict[str, float]:
    """The layers as leaves to be held against each other, beside those with shapes.

    >>> rate_leaves({"drop": 0.5})
    {'drop.rate': 0.5}
    """
    return {f"{name}.rate": rate for name, rate in rates.items()}


def check_rate(name: str, rate: float) -> None:
    """Refuse a layer of a user's own with a rate that is none.

    Raises:
      ConfigError: naming the layer and its rate.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"{name}: the rate of dropout must lie in [0, 1), got {rate}")


def check_rates(held: Mapping[str, float], listed: Mapping[str, float]) -> None:
    """Refuse a model of the user's own that drops otherwise than its shapes.py says.

    Args:
      held: name -> rate of the dropout layers of a framework's model.
      listed: the same of shapes.py.

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
    """Refuse a call of a user's own dropout layer for which there are no masks.

    Args:
      name: the layer's, with the file that it is in.
      rows: along the first axis of what it is given.
      examples: of the batch, which has keys; else None.
      evaluates: whether the model's forward pass has none, as in evaluation.
      off: how the framework's layer is left off there.

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
