"""Random numbers that belong to a sample, not to the order in which samples are met.

A number is a hash of its keys: (seed, epoch, index, ...). So results do not
depend on batch size, worker count or the number of processes, and a resumed
run draws what the unbroken one would have drawn. The arithmetic stays inside
int64, hence the same function serves NumPy arrays, torch tensors (on any
device) and numba, bit for bit.

Source of the mixing constants: "lowbias32" family (C. Wellons, Prospecting
for hash functions, 2018), multipliers below 2**31.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvkit.jit import compiled_exact_part

#: First key of what is drawn, so that no two kinds of draws share their bits (crops, steps of views, ...).
CROP, STEP, PATCH = 0x43524F50, 0x53544550, 0x50415443

_MASK = 0xFFFFFFFF
_FIRST = 0x21F0AAAD
_SECOND = 0x735A2D97
_GOLDEN = 0x9E3779B9
#: 2**-24: the upper 24 bits of a hash as a number in [0, 1), exact in float32 too.
_UNIT = 1.0 / 16777216.0


def hashed(seed: int, *keys: Any) -> Any:
    """Return 32 random bits (in int64) for every combination of the broadcast keys.

    Parameters
    ----------
    seed
        Non-negative.
    *keys
        ints, int64 NumPy arrays or int64 torch tensors that broadcast together.
    """
    state: Any = _mix((seed & _MASK) ^ _mix(seed >> 32))
    for key in keys:
        state = _combine(state, key)
    return state


def uniforms(seed: int, *keys: Any) -> Any:
    """Return multiples of 2**-24 in [0, 1): float64 (NumPy) or the default float type (torch)."""
    return (hashed(seed, *keys) >> 8) * _UNIT


# The same draws inside compiled functions, where an int has 64 bits whatever came in.

#: An int64.
Integer = Any


def compiled_seed(seed: int) -> int:
    """Return a seed as compiled functions take it: its lower 64 bits in an int64, which draw the same."""
    low = seed & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >= 1 << 63 else low


@compiled_exact_part
def seeded(seed: Integer) -> Integer:
    """Return the hash of a seed alone, ``hashed(seed)``."""
    return _compiled_mix((np.int64(seed) & _MASK) ^ _compiled_mix(np.int64(seed) >> 32))


@compiled_exact_part
def combined(state: Integer, key: Integer) -> Integer:
    """Take one more key into a hash: ``combined(seeded(seed), key)`` is ``hashed(seed, key)``."""
    wide = np.int64(key)
    return _compiled_mix(_compiled_mix((state + _GOLDEN) ^ (wide & _MASK)) + ((wide >> 32) & _MASK))


@compiled_exact_part
def uniform(state: Integer, key: Integer) -> float:
    """Return the number in [0, 1) that belongs to a hash and one more key."""
    return float(combined(state, key) >> 8) * _UNIT


def _mix(bits: Any) -> Any:
    """Scramble 32-bit values held in int64: an int, a NumPy array or a torch tensor; same kind back."""
    bits = bits & _MASK
    bits = bits ^ (bits >> 16)
    bits = (bits * _FIRST) & _MASK
    bits = bits ^ (bits >> 15)
    bits = (bits * _SECOND) & _MASK
    return bits ^ (bits >> 15)


def _combine(state: Any, key: Any) -> Any:
    """Take one more key into a hash; ``state`` and ``key`` broadcast, keys are int64 of any size."""
    state = _mix((state + _GOLDEN) ^ (key & _MASK))
    return _mix(state + ((key >> 32) & _MASK))


_compiled_mix = compiled_exact_part(_mix)
