"""Pearson correlation and the Spearman-Brown correction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import compiled

# A response counts as constant if it differs from its mean by no more than rounding.
CONSTANT = 64 * float(np.finfo(np.float64).eps)


def centred(values: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Subtract the mean along an axis; what is constant up to rounding becomes exactly zero.

    NaN anywhere along the axis makes all of it NaN.
    """
    means = values.mean(axis=axis, keepdims=True)
    deviations: NDArray[np.float64] = values - means
    clear_rounding(deviations, CONSTANT * np.abs(means), axis=axis)
    return deviations


def clear_rounding(
    deviations: NDArray[np.float64], allowance: NDArray[np.float64] | float, *, axis: int
) -> None:
    """Set to zero, in place, what stays within its allowance all along an axis; NaN stays NaN."""
    rounding = spread(deviations, axis=axis) <= allowance
    if rounding.any():
        np.multiply(deviations, 0.0, out=deviations, where=rounding)


def spread(deviations: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Return the largest absolute value along an axis, which keeps length 1."""
    high: NDArray[np.float64] = deviations.max(axis=axis, keepdims=True)
    low: NDArray[np.float64] = deviations.min(axis=axis, keepdims=True)
    largest: NDArray[np.float64] = np.maximum(high, -low)
    return largest


def spearman_brown(reliability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reliability of the whole from the correlation of its halves: ``2 r / (1 + r)``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected: NDArray[np.float64] = 2.0 * reliability / (1.0 + reliability)
    return corrected


@compiled
def column_correlations(
    first: NDArray[np.float64], second: NDArray[np.float64], result: NDArray[np.float64]
) -> None:
    """Correlate matching columns over the middle axis.

    Parameters
    ----------
    first, second
        float64 (n, n_rows, n_columns).
    result
        float64 (n, n_columns), overwritten; NaN where either column is constant or holds NaN.
    """
    n, n_rows, n_columns = first.shape
    mean_first = np.empty(n_columns)
    mean_second = np.empty(n_columns)
    square_first = np.empty(n_columns)
    square_second = np.empty(n_columns)
    product = np.empty(n_columns)
    for item in range(n):
        mean_first[:] = 0.0
        mean_second[:] = 0.0
        for row in range(n_rows):
            for column in range(n_columns):
                mean_first[column] += first[item, row, column]
                mean_second[column] += second[item, row, column]
        mean_first /= n_rows
        mean_second /= n_rows
        square_first[:] = 0.0
        square_second[:] = 0.0
        product[:] = 0.0
        for row in range(n_rows):
            for column in range(n_columns):
                x = first[item, row, column] - mean_first[column]
                y = second[item, row, column] - mean_second[column]
                square_first[column] += x * x
                square_second[column] += y * y
                product[column] += x * y
        for column in range(n_columns):
            scale = np.sqrt(square_first[column]) * np.sqrt(square_second[column])
            value = product[column] / scale if scale > 0.0 else np.nan
            result[item, column] = min(1.0, max(-1.0, value)) if value == value else np.nan


def correlate(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of matching columns, over the last but one axis.

    Parameters
    ----------
    first, second
        float64 (..., n_images, n_units).

    Returns
    -------
    ndarray
        float64 (..., n_units); NaN where either is constant or holds NaN.
    """
    shape = first.shape
    result = np.empty((int(np.prod(shape[:-2])), shape[-1]))
    column_correlations(
        np.ascontiguousarray(first).reshape(-1, *shape[-2:]),
        np.ascontiguousarray(second).reshape(-1, *shape[-2:]),
        result,
    )
    return result.reshape(*shape[:-2], shape[-1])


def correlate_by(kind: str, first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate matching columns over the last but one axis by ``"pearson"`` or ``"spearman"``.

    Spearman's is Pearson's correlation of the ranks, ties sharing their mean rank. Shapes as in
    :func:`correlate`.
    """
    if kind == "spearman":
        return correlate(_ranks(first), _ranks(second))
    return correlate(first, second)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(values, axis=-2)
    ranks[np.broadcast_to(np.isnan(values).any(axis=-2, keepdims=True), ranks.shape)] = np.nan
    return ranks
