"""Inner products between images, and principal axes from them.

For a layer, the inner products of all its features are a matrix as small as the number of images squared,
however many features there are. Its eigenvectors and the roots of its eigenvalues are the principal axes of
the layer. Squaring the condition number costs digits: an eigenvalue is right to about the unit of rounding
of the largest one. Whoever takes axes from here therefore says how small the smallest may be.
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


def principal_axes(
    inner: NDArray[np.float64], rank: int, *, clear: float, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Take principal axes from inner products, or None if rounding errors would show.

    Parameters
    ----------
    inner
        float64 (n_images, n_images), centred over images in both directions.
    rank
        Axes that the features have.
    clear
        Smallest eigenvalue, relative to the largest, that is still told from rounding.
    noise
        Size of the rounding errors in the features' own axes.

    Returns
    -------
    scale
        float64 (rank,): singular values of the centred features, descending.
    vectors
        float64 (n_images, rank), orthonormal columns.
    """
    values, vectors = np.linalg.eigh(inner)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    if not (values[0] > 0.0 and values[-1] > max(clear * values[0], noise**2)):
        return None
    return np.sqrt(values), vectors
