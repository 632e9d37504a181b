"""Centred kernel alignment with a linear kernel.

Kornblith, Norouzi, Lee and Hinton, "Similarity of neural network representations revisited" (2019): with
the Gram matrices K and L of two populations that are centred over images, CKA is HSIC(K, L) over the root of
HSIC(K, K) HSIC(L, L), and HSIC(K, L) is proportional to the sum of the products of their entries. CKA is
thus the cosine of two Gram matrices.

That HSIC is biased: with few images and many units it exceeds zero for unrelated populations, far enough to
mistake noise for a model (400 random features reach about 0.3 to 0.4 on 118 images and a few hundred pooled
units, 0.0 debiased). Values of biased CKA compare only between layers and populations of like size. The
unbiased estimator (Song, Smola, Gretton, Bedo and Borgwardt 2012; used for CKA by Nguyen, Raghu and Kornblith
2021) is proportional to the sum of the products, off the diagonal, of U-centred matrices (Szekely and Rizzo
2014), so that debiased CKA is a cosine too. It can be negative.

Only Gram matrices between images are formed, never matrices between units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import CONSTANT, centred, clear_rounding
from mvkit.scoring.gram import LayerCoordinates, layer_coordinates
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.rows import LayerInput
from mvkit.scoring.settings import ScoreSettings


def population_grams(patterns: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return inner products between images, the units being centred over images.

    Parameters
    ----------
    patterns
        float64 (n, n_images, n_units): n populations, zero for units that are not present. Such a unit, and
        one that responds alike to all images, adds nothing.
    present
        Not needed; see ``patterns``.

    Returns
    -------
    ndarray
        float64 (n, n_images, n_images), in the squared units of measure of the responses.
    """
    deviations = centred(patterns, axis=1)
    grams: NDArray[np.float64] = np.matmul(deviations, deviations.transpose(0, 2, 1))
    return grams


def layer_grams(name: str, features: LayerInput, splits: Sequence[ImageSplit]) -> list[NDArray[np.float64]]:
    """Return inner products between the test images of every split, the features being centred over them.

    The features are reduced to coordinates once, by which inner products stay exact whatever offset they
    have; a split's inner products are those of its images' coordinates.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype, in memory or on disk; or its coordinates.
    splits
        The image splits.

    Returns
    -------
    list of ndarray
        Per split float64 (n_test, n_test); zero if the features do not vary over its test images.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    layer = features if isinstance(features, LayerCoordinates) else layer_coordinates(name, features)
    rounding = max(layer.noise, CONSTANT * float(np.linalg.norm(layer.coordinates)))
    grams = []
    for split in splits:
        deviations = centred(layer.coordinates[split.test], axis=0)
        varies = np.linalg.norm(deviations, 2) > rounding
        grams.append(deviations @ deviations.T if varies else np.zeros(2 * (split.test.size,)))
    return grams


def why_undefined(matrix: NDArray[np.float64]) -> str:
    """Say why a layer's Gram matrix cannot be compared."""
    if not matrix.any():
        return "constant features: the layer does not vary over the images"
    return "all distances between images are equal"


def gram_vectors(matrices: NDArray[np.float64], settings: ScoreSettings) -> NDArray[np.float64]:
    """Bring centred Gram matrices into the form whose cosine is CKA.

    Parameters
    ----------
    matrices
        float64 (n, n_images, n_images).
    settings
        ``cka_debiased``: whether the matrices are U-centred.

    Returns
    -------
    ndarray
        float64 (n, n_images * n_images); zero where nothing varies.
    """
    n = matrices.shape[0]
    if not settings.cka_debiased:
        return matrices.reshape(n, -1)
    largest = np.abs(matrices).reshape(n, -1).max(axis=1, keepdims=True)
    vectors = _u_centred(matrices).reshape(n, -1)
    clear_rounding(vectors, CONSTANT * largest, axis=1)
    return vectors


def _u_centred(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre so that the sum of products of two such matrices is unbiased; diagonals become zero."""
    n_images = matrices.shape[1]
    diagonal = np.arange(n_images)
    off = matrices.copy()
    off[:, diagonal, diagonal] = 0.0
    sums = off.sum(axis=2)
    totals = sums.sum(axis=1)[:, None, None] / ((n_images - 1) * (n_images - 2))
    off += totals - (sums[:, :, None] + sums[:, None, :]) / (n_images - 2)
    off[:, diagonal, diagonal] = 0.0
    return off
