"""All randomness: NumPy generators keyed by what they are for.

Nothing in a run uses torch's or JAX's generators, and no stream depends on how much was
drawn before, so neither world size nor framework can change the numbers.
"""

import hashlib

import numpy as np


def keyed_generator(*key: int | str) -> np.random.Generator:
    """A generator that is a pure function of its key.

    Args:
      key: its purpose, such as `(seed, "order", epoch)`. Different keys give
        independent streams: the 128-bit Philox key is the head of their SHA-256 digest.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.

    >>> keyed_generator(0, "order", 1).integers(100, size=3)
    array([25,  3, 26])
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=words))
