"""Inner products between images, and whether they can stand in for features.

The inner products of a layer are a matrix as small as the number of images squared, however many features
there are. But they square the condition number: an eigenvalue is right to about the unit of rounding of the
largest one. Whoever relies on them says how small the smallest may be.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class InnerProducts(Protocol):
    """How inner products between images are formed: here with numpy, or elsewhere.

    A device takes its place in :func:`~mvkit.scoring.preparing.prepare_layers`. It is called from several
    threads at a time.
    """

    def __call__(self, block: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Return ``block @ block.T``, float64 (n_images, n_images), of a block (n_images, n_features)."""


def inner_products(block: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Return ``block @ block.T``, of which numpy has BLAS compute one triangle only."""
    products: NDArray[np.float64] = block @ block.T
    return products


def stand_clear(eigenvalues: NDArray[np.floating], *, clear: float, noise: float) -> bool:
    """Tell whether rounding errors leave the smallest direction of inner products alone.

    Parameters
    ----------
    eigenvalues
        (rank,) of inner products between images: those of the directions that features have,
        descending.
    clear
        Smallest eigenvalue, relative to the largest, that is relied on.
    noise
        Singular value of the rounding errors in the features, see
        :func:`~mvkit.scoring.reduction.rounding_noise`.
    """
    largest, smallest = float(eigenvalues[0]), float(eigenvalues[-1])
    return largest > 0.0 and smallest > max(clear * largest, noise**2)
