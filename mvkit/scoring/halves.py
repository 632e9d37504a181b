"""Mean responses of the two halves of the trials."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def half_means(responses: NDArray[np.floating], members: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average the responses of each half, ignoring missing ones, in one matrix product.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    members
        bool (n_halves, 2, n_trials): which trials belong to which half.

    Returns
    -------
    ndarray
        float64 (n_halves, 2, n_images, n_units), in the units of measure of the responses; NaN where a half
        has no valid trial for that image and unit.
    """
    n_trials, n_images, n_units = responses.shape
    n_halves = members.shape[0]
    weights = members.reshape(2 * n_halves, n_trials).astype(np.float64)
    values = responses.reshape(n_trials, -1).astype(np.float64)
    missing = np.isnan(values)
    if missing.any():
        counts = weights @ (~missing).astype(np.float64)
        values[missing] = 0.0
    else:
        counts = weights.sum(axis=1, keepdims=True)
    sums = weights @ values
    with np.errstate(invalid="ignore", divide="ignore"):
        sums /= counts
    return sums.reshape(n_halves, 2, n_images, n_units)
