"""Which units training drops: the numbers that both twins compute the same mask from.

A unit u of an example with key k is kept where `mix(u x UNIT ^ k)`, over 32-bit words,
is at least `least_kept(rate)`; `mix` is, for each of ROUNDS, `w ^= w >> shift; w *=
factor`. Either `layers.py` has it as `kept`.

Keys and not masks are drawn in NumPy (`data/dropout.py`): a step of vit_tiny on 512
images drops from 151 million units, which are 19 MB as bits, and 48 kB of keys.
Integers leave nothing to rounding, so the masks are equal to the bit.
"""

from recipe.config import Config

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
    connections, as Dosovitskiy et al., ICLR 2021, do.
    """
    if not config.model.dropout:
        return ()
    if config.model.name == "vit_tiny":
        parts = "attention.out", "mlp.1"
        blocks = range(config.model.blocks)
        return tuple(f"block.{i}.{part}" for i in blocks for part in parts)
    return tuple(f"dense.{i}" for i, _ in enumerate(config.model.hidden))
