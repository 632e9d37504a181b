"""Ridge maps from features to responses, in the row space of the training images.

With the centred training features ``X = U'DV'`` (:class:`~mvkit.scoring.gram.SplitCoordinates`: ``U`` is
``basis``, ``D`` is ``scale``, ``Z`` are the test images in coordinates ``V``) and centred responses ``y``,
ridge regression with an intercept that is not penalised predicts (Hastie, Tibshirani & Friedman, "The
Elements of Statistical Learning", equations 3.44 to 3.47)

    Z D (D^2 + alpha)^-1 U y = H y.

``H`` does not depend on the responses: one small matrix serves all split halves and units of a split.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.jit import compiled
from mvkit.scoring.gram import SplitCoordinates
from mvkit.scoring.settings import ScoreSettings

# Matrices of this many bytes, one per penalty, are applied to a fit's responses at once.
STACK_BYTES = 64 * 2**20
# A triangle is multiplied in this many bands of rows.
TRIANGLE_STEPS = 4


def predict_ridge(
    targets: NDArray[np.float64], coordinates: SplitCoordinates, settings: ScoreSettings
) -> NDArray[np.float64]:
    """Fit one ridge regression per target column and predict the test images.

    Equals scikit-learn's ``Ridge(alpha, fit_intercept=True)``. With ``ridge_alpha="cv"`` every column (a unit
    in one half of one pair) gets its own penalty, see :func:`choose_penalties`.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units) as from :func:`~mvkit.scoring.protocol.training_targets`.
    coordinates
        Features of the split; they must vary (``reason`` empty).
    settings
        ``ridge_alpha``, ``ridge_grid``.

    Returns
    -------
    ndarray
        float64 (n_fits, n_test, n_units), in the units of measure of the targets: deviations from the unit's
        mean over training images.
    """
    squares = coordinates.scale**2
    predictions: NDArray[np.float64]
    if settings.ridge_alpha == "cv":
        penalties = np.asarray(settings.ridge_grid, dtype=np.float64)
        chosen = choose_penalties(targets, coordinates, penalties)
        shrinkage = coordinates.scale / (squares + penalties[:, None])
        projected = coordinates.basis @ targets
        projected *= shrinkage[chosen].transpose(0, 2, 1)
        predictions = coordinates.test @ projected
    else:
        shrunk = coordinates.test * (coordinates.scale / (squares + settings.ridge_alpha))
        predictions = (shrunk @ coordinates.basis) @ targets
    return predictions


def choose_penalties(
    targets: NDArray[np.float64], coordinates: SplitCoordinates, penalties: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Find each target column's penalty by leave-one-out within the training images.

    No model is refitted: the matrix ``R`` that turns responses into the residuals of a fit to all images
    gives the residual at image i of the fit without it, intercept included, as ``(R y)_i / R_ii`` (Allen 1974
    in Technometrics 16). The penalty with the smallest sum of squares wins, the first one of the grid where
    sums are equal. scikit-learn's ``RidgeCV(alphas, alpha_per_target=True)`` follows the same rule.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units), centred over images.
    coordinates
        Features of the split.
    penalties
        float64 (n_penalties,).

    Returns
    -------
    ndarray
        int64 (n_fits, n_units): positions in ``penalties``; 0 for columns of zeros.
    """
    n_fits, n_train, n_units = targets.shape
    unexplained = complement(coordinates.basis)
    lowest = np.full((n_fits, n_units), np.inf)
    chosen = np.zeros((n_fits, n_units), dtype=np.int64)
    step = max(1, STACK_BYTES // (8 * n_train**2))
    for begin in range(0, penalties.size, step):
        some = penalties[begin : begin + step]
        stack = np.stack([left_out_triangle(coordinates, unexplained, float(penalty)) for penalty in some])
        bands = bands_of(stack)
        for fit, responses in enumerate(targets):
            totals = squared_lengths(bands, some.size, responses)
            first = totals.argmin(axis=0)
            least = totals[first, np.arange(n_units)]
            better = least < lowest[fit]
            lowest[fit, better] = least[better]
            chosen[fit, better] = begin + first[better]
    return chosen


def complement(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an orthonormal basis (n_train, n_train - 1 - rank) of responses that no feature explains."""
    rank, n_train = basis.shape
    explained = np.column_stack([np.full(n_train, n_train**-0.5), basis.T])
    orthogonal: NDArray[np.float64] = np.linalg.qr(explained, mode="complete")[0]
    return orthogonal[:, rank + 1 :]


def left_out_triangle(
    coordinates: SplitCoordinates, unexplained: NDArray[np.float64], penalty: float
) -> NDArray[np.float64]:
    """Return an upper triangular matrix that gives leave-one-out errors.

    Parameters
    ----------
    coordinates
        Features of the split.
    unexplained
        As from :func:`complement`.
    penalty
        The penalty of the fits.

    Returns
    -------
    ndarray
        float64 (n_train, n_train): its product with centred responses is as long as the vector of their
        leave-one-out residuals. Only that length is requested, and a triangle takes half the multiplications.
    """
    shrinkage = penalty / (coordinates.scale**2 + penalty)
    # Both terms are sums of squares on the diagonal: nothing cancels, however small the penalty.
    residual = (coordinates.basis.T * shrinkage) @ coordinates.basis + unexplained @ unexplained.T
    residual /= np.maximum(np.diagonal(residual), np.finfo(np.float64).tiny)[:, None]
    triangle = np.linalg.qr(residual, mode="r")
    return np.asarray(triangle)


def bands_of(stack: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut upper triangular matrices (n, n_rows, n_rows) into bands of rows without the zeros to their left.

    Each band is (n * rows of the band, n_rows - its first row), all matrices under one another.
    """
    n_rows = stack.shape[1]
    step = -(-n_rows // TRIANGLE_STEPS)
    return [
        np.ascontiguousarray(stack[:, begin : begin + step, begin:]).reshape(-1, n_rows - begin)
        for begin in range(0, n_rows, step)
    ]


def squared_lengths(
    bands: list[NDArray[np.float64]], n: int, columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the squared lengths (n, n_columns) of the products of n triangles with columns.

    Parameters
    ----------
    bands
        The triangles as from :func:`bands_of`.
    n
        Their number.
    columns
        float64 (n_rows, n_columns).
    """
    n_columns = columns.shape[1]
    totals = np.zeros((n, n_columns))
    for band in bands:
        products = band @ columns[columns.shape[0] - band.shape[1] :]
        add_squares(products.reshape(n, -1, n_columns), totals)
    return totals


@compiled
def add_squares(values: NDArray[np.float64], totals: NDArray[np.float64]) -> None:
    """Add squares of ``values`` (n, n_rows, n_columns), summed over rows, to ``totals`` (n, n_columns)."""
    n, n_rows, n_columns = values.shape
    for item in range(n):
        for row in range(n_rows):
            for column in range(n_columns):
                totals[item, column] += values[item, row, column] * values[item, row, column]


def prepare_squares() -> None:
    """Compile what sums squares, or load it from disk."""
    add_squares(np.zeros((1, 1, 1)), np.zeros((1, 1)))
