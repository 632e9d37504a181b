"""The draws of :mod:`mvkit.rng` for compiled code, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvkit import rng as draws
from mvkit.images.compiled import compiled_part

_MASK, _GOLDEN, _UNIT = draws.MASK, draws.GOLDEN, draws.UNIT

#: An int; inside compiled functions 64 bits wide whatever came in.
Integer = Any

_mix = compiled_part(draws.mix)


def compiled_seed(seed: int) -> int:
    """Return a seed as compiled functions take it: its lower 64 bits in an int64, which draw the same."""
    low = seed & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >= 1 << 63 else low


@compiled_part
def seeded(seed: Integer) -> Integer:
    """Return the hash of a seed alone, ``draws.hashed(seed)``."""
    return _mix((np.int64(seed) & _MASK) ^ _mix(np.int64(seed) >> 32))


@compiled_part
def combined(state: Integer, key: Integer) -> Integer:
    """Take one more key into a hash, ``draws.combine(state, key)``."""
    wide = np.int64(key)
    return _mix(_mix((state + _GOLDEN) ^ (wide & _MASK)) + ((wide >> 32) & _MASK))


@compiled_part
def uniform(state: Integer, key: Integer) -> float:
    """Return the number in [0, 1) that belongs to a hash and one more key."""
    return float(combined(state, key) >> 8) * _UNIT
