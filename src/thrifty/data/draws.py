"""Random numbers that are a function of where they are used, not of what was drawn before.

A counter-based generator (Philox 4x64, Salmon et al., SC 2011) is keyed by (seed, purpose) and placed at
(epoch, step), so batch k of an epoch has the same draws whether training came there from step 0 or from a checkpoint.
Only the raw stream is used: numpy promises to keep that of a bit generator, while the methods built on it may change.
"""

from enum import IntEnum

import numpy as np

_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a stream is for; streams of different purposes are independent."""

    ORDER = 1
    AUGMENT = 2
    SUBSET = 3


def raw(seed: int, purpose: Purpose, count: int, *, epoch: int = 0, step: int = 0) -> np.ndarray:
    """Return `count` uniform uint64 numbers, the same ones for the same arguments on every machine."""
    key = np.array([seed & _MASK, int(purpose)], dtype=np.uint64)
    counter = np.array([0, step & _MASK, epoch & _MASK, 0], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(count))


def permutation(seed: int, purpose: Purpose, count: int, *, epoch: int = 0) -> np.ndarray:
    """Return a uniform permutation of range(count), int64: the order of `count` random keys."""
    return np.argsort(raw(seed, purpose, count, epoch=epoch), kind="stable").astype(np.int64)
