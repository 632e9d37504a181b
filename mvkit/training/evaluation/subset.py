"""A fixed random part of many images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.draws import hashed

#: Keeps these draws apart from those of views, which are keyed by (seed, epoch, index, ...).
_PURPOSE = 0x5EB5E7


def fixed_subset(n_images: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``limit`` positions of 0 .. n_images - 1, sorted.

    The same ones for the same seed, whatever the number of processes; those with the smallest
    hashes, since image folders are sorted by class and the first ones would be of few classes.
    """
    positions = np.arange(n_images, dtype=np.int64)
    if n_images <= limit:
        return positions
    order = np.argsort(hashed(seed, _PURPOSE, positions), kind="stable")
    return np.sort(positions[order[:limit]])
