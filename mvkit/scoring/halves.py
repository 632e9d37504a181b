"""Mean responses of sets of trials, such as the two of every halving."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def half_means(responses: NDArray[np.floating], weights: NDArray[np.generic]) -> NDArray[np.float64]:
    """Average the responses of each half, ignoring missing ones.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    weights
        (n_halves, 2, n_trials): how often each trial counts in each half (bool or numbers >= 0), the same for
        all images; or (n_halves, 2, n_trials, n_images), images each having their own. There may be any
        number of sets in place of 2.

    Returns
    -------
    ndarray
        float64 (n_halves, 2, n_images, n_units), in the units of measure of the responses; NaN where a half
        has no valid trial for that image and unit.
    """
    n_trials, n_images, n_units = responses.shape
    n_halves, n_sets = weights.shape[:2]
    flat = weights.reshape(n_halves * n_sets, n_trials, *weights.shape[3:]).astype(np.float64)
    values = responses.astype(np.float64)
    missing = np.isnan(values)
    any_missing = bool(missing.any())
    if any_missing:
        values[missing] = 0.0
    sums = _weighted_sums(values, flat)
    if any_missing:
        present = ~missing
        if np.array_equal(present, np.broadcast_to(present[:, :, :1], present.shape)):
            present = present[:, :, :1]  # whole presentations are missing: one count serves all units
        counts = _weighted_sums(present.astype(np.float64), flat)
    else:
        totals = flat.sum(axis=1)
        counts = totals[:, None, None] if totals.ndim == 1 else totals[:, :, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        sums /= counts
    return sums.reshape(n_halves, n_sets, n_images, n_units)


def _weighted_sums(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over trials: (n_sets, n_images, n_units)."""
    n_trials, n_images, n_units = values.shape
    if weights.ndim == 2:
        return (weights @ values.reshape(n_trials, -1)).reshape(-1, n_images, n_units)
    by_image: NDArray[np.float64] = np.matmul(weights.transpose(2, 0, 1), values.transpose(1, 0, 2))
    return np.ascontiguousarray(by_image.transpose(1, 0, 2))
