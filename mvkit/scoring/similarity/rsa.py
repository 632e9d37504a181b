"""Representational dissimilarity: how far apart a population holds every two images.

The dissimilarity of two images is 1 - Pearson's correlation, over units (features), of the patterns they
evoke (Kriegeskorte, Mur and Bandettini 2008). Two populations are compared by the upper triangles, without
the diagonal, of their matrices of dissimilarities.

A unit that responds alike to all images still belongs to every pattern: with the differences between units
it changes the correlations of patterns. It is therefore kept. (It has no part in CKA, which centres units
over images.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import CONSTANT, clear_rounding
from mvkit.scoring.gram import Features, feature_blocks
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.settings import ScoreSettings

# Dissimilarities lie between 0 and 2 and are differences from 1: their rounding errors are absolute.
_ROUNDING = CONSTANT
# Ranks are taken of dissimilarities rounded to so many decimals, so that rounding errors do not order what
# is equal (a population of two units has no dissimilarities but 0 and 2).
_DECIMALS = 12


def population_rdms(patterns: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 1 - Pearson's correlation between the patterns of every two images.

    Parameters
    ----------
    patterns
        float64 (n, n_images, n_units): n populations, zero for units that are not present.
    present
        bool (n, n_units): the units that each population consists of.

    Returns
    -------
    ndarray
        float64 (n, n_images, n_images); NaN in the row and column of an image to which all units respond
        alike.
    """
    counts = present.sum(axis=1)[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = patterns.sum(axis=2, keepdims=True) / counts
        deviations = patterns - means
        if not present.all():
            np.copyto(deviations, 0.0, where=~present[:, None, :])
        rdms: NDArray[np.float64] = np.matmul(deviations, deviations.transpose(0, 2, 1))
        squares = np.diagonal(rdms, axis1=1, axis2=2)[:, :, None]
        # A pattern that differs from its mean by no more than rounding does not vary.
        varies = squares > counts * np.square(CONSTANT * means)
        lengths = np.where(varies, np.sqrt(squares), np.nan)
        rdms /= lengths
        rdms /= lengths.transpose(0, 2, 1)
        np.subtract(1.0, rdms, out=rdms)
    return rdms


def layer_rdms(name: str, features: Features, splits: Sequence[ImageSplit]) -> list[NDArray[np.float64]]:
    """Return a layer's dissimilarities between the test images of every split.

    The features are read twice, in blocks: for the means of the patterns, then for their products.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype; brought to float64 before centring.
    splits
        The image splits.

    Returns
    -------
    list of ndarray
        Per split float64 (n_test, n_test); NaN in the row and column of an image whose features are all
        equal.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    blocks = [
        (block.sum(axis=1), block.min(axis=1), block.max(axis=1), block.shape[1])
        for block in feature_blocks(name, features)
    ]
    totals, lows, highs, widths = zip(*blocks, strict=True)
    means = np.sum(totals, axis=0) / sum(widths)
    alike = np.min(lows, axis=0) == np.max(highs, axis=0)
    products = np.zeros((means.size, means.size))
    for block in feature_blocks(name, features):
        block -= means[:, None]
        products += block @ block.T
    lengths = np.sqrt(np.diagonal(products))
    lengths[alike] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = 1.0 - products / lengths[:, None] / lengths
    return [matrix[np.ix_(split.test, split.test)] for split in splits]


def why_undefined(matrix: NDArray[np.float64]) -> str:
    """Say why a layer's dissimilarities cannot be compared."""
    alike = np.isnan(np.diagonal(matrix))
    if alike.all():
        return "undefined dissimilarities: no image has two different features"
    if alike.any():
        return f"undefined dissimilarities: {int(alike.sum())} images have no two different features"
    return "all dissimilarities are equal"


def rdm_vectors(matrices: NDArray[np.float64], settings: ScoreSettings) -> NDArray[np.float64]:
    """Bring upper triangles into the form whose cosine is the comparison asked for.

    Parameters
    ----------
    matrices
        float64 (n, n_images, n_images): dissimilarities.
    settings
        ``rsa_comparison``: Pearson's correlation is the cosine of what is centred, Spearman's that of
        centred ranks (ties share their mean rank), ``"cosine"`` that of the dissimilarities themselves.

    Returns
    -------
    ndarray
        float64 (n, n_images (n_images - 1) / 2); zero where nothing varies, NaN where something is NaN.
    """
    n, n_images, _ = matrices.shape
    rows, columns = np.triu_indices(n_images, k=1)
    triangles: NDArray[np.float64] = matrices.reshape(n, -1).take(rows * n_images + columns, axis=1)
    if settings.rsa_comparison == "spearman":
        triangles = _ranks(triangles)
    if settings.rsa_comparison != "cosine":
        triangles -= triangles.mean(axis=1, keepdims=True)
    clear_rounding(triangles, _ROUNDING, axis=1)
    return triangles


def _ranks(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(np.round(triangles, _DECIMALS), axis=1)
    ranks[np.isnan(triangles).any(axis=1)] = np.nan
    return ranks
