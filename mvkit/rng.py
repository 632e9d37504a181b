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

MASK = 0xFFFFFFFF
_FIRST = 0x21F0AAAD
_SECOND = 0x735A2D97
GOLDEN = 0x9E3779B9
#: First key of what is drawn, so that no two kinds of draws share their bits (crops, steps of views, ...).
CROP, STEP, PATCH = 0x43524F50, 0x53544550, 0x50415443
#: 2**-24: the upper 24 bits of a hash as a number in [0, 1), exact in float32 too.
UNIT = 1.0 / 16777216.0


def mix(bits: Any) -> Any:
    """Scramble 32-bit values held in int64: an int, a NumPy array or a torch tensor; same kind back."""
    bits = bits & MASK
    bits = bits ^ (bits >> 16)
    bits = (bits * _FIRST) & MASK
    bits = bits ^ (bits >> 15)
    bits = (bits * _SECOND) & MASK
    return bits ^ (bits >> 15)


def combine(state: Any, key: Any) -> Any:
    """Take one more key into a hash; ``state`` and ``key`` broadcast, keys are int64 of any size."""
    state = mix((state + GOLDEN) ^ (key & MASK))
    return mix(state + ((key >> 32) & MASK))


def hashed(seed: int, *keys: Any) -> Any:
    """Return 32 random bits (in int64) for every combination of the broadcast keys.

    Parameters
    ----------
    seed
        Non-negative.
    *keys
        ints, int64 NumPy arrays or int64 torch tensors that broadcast together.
    """
    state: Any = mix((seed & MASK) ^ mix(seed >> 32))
    for key in keys:
        state = combine(state, key)
    return state


def uniforms(seed: int, *keys: Any) -> Any:
    """Return multiples of 2**-24 in [0, 1): float64 (NumPy) or the default float type (torch)."""
    return (hashed(seed, *keys) >> 8) * UNIT
