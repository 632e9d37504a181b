"""Mean and standard deviation of split-half reliabilities, for very many units and time bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import centred, correlate, spearman_brown
from mvkit.scoring.protocol import half_means

# Half-means of this many bytes stay in a core's cache between the steps they go through.
_CACHED_BYTES = 8 * 2**20


@dataclass(frozen=True)
class ReliabilityMoments:
    """Split-half reliability of each column, condensed over halvings.

    Attributes
    ----------
    mean, std
        float64 (n_columns,): over the halvings in which it is defined (std: population, ddof 0); NaN where
        there is none.
    n_used
        int64 (n_columns,): those halvings.
    n_missing
        int64 (n_columns,): halvings in which a half has no valid trial for some image. In all others that are
        not used a half does not vary over the images.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    n_used: NDArray[np.int64]
    n_missing: NDArray[np.int64]


def split_half_moments(responses: NDArray[np.floating], members: NDArray[np.bool_]) -> ReliabilityMoments:
    """Measure Spearman-Brown corrected split-half reliabilities and condense them over halvings.

    Same numbers as from :func:`~mvkit.scoring.reliability.split_half_reliability`, in bounded memory.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_columns), NaN = missing; a column is a unit, or a unit in one time bin.
    members
        bool (n_halves, 2, n_trials): the halves, as from :func:`~mvkit.scoring.protocol.halves_of`; every
        trial in exactly one of the two.
    """
    n_halves = members.shape[0]
    _, n_images, n_columns = responses.shape
    step = max(1, _CACHED_BYTES // (2 * 8 * n_halves * n_images))
    result = ReliabilityMoments(
        mean=np.empty(n_columns),
        std=np.empty(n_columns),
        n_used=np.empty(n_columns, dtype=np.int64),
        n_missing=np.empty(n_columns, dtype=np.int64),
    )
    for begin in range(0, n_columns, step):
        here = slice(begin, min(begin + step, n_columns))
        first, second = _halves(responses[:, :, here].astype(np.float64), members)
        reliabilities = spearman_brown(correlate(first, second))
        _condense(reliabilities, result, here)
        result.n_missing[here] = 0
        if not np.isfinite(reliabilities).all():
            lost = np.isnan(first).any(axis=1) | np.isnan(second).any(axis=1)
            result.n_missing[here] = lost.sum(axis=0)
    return result


def _halves(
    values: NDArray[np.float64], members: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n_halves, n_images, n_columns) for each half: what is to be correlated over images."""
    if np.array_equal(values, np.rint(values)):  # also False if one is NaN
        return _whole_sums(values, members)
    means = centred(half_means(values, members), axis=2)
    return np.ascontiguousarray(means[:, 0]), np.ascontiguousarray(means[:, 1])


def _whole_sums(
    values: NDArray[np.float64], members: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum whole numbers over each half: as good as means to correlate, and exact.

    What is left of the sum of all trials is then exactly the other half's, at half the price; and a constant
    sum has exactly no variance, without centring.
    """
    n_trials, n_images, n_columns = values.shape
    flat = values.reshape(n_trials, -1)
    first = members[:, 0].astype(np.float64) @ flat
    second = flat.sum(axis=0) - first
    shape = (-1, n_images, n_columns)
    return first.reshape(shape), second.reshape(shape)


def _condense(reliabilities: NDArray[np.float64], result: ReliabilityMoments, columns: slice) -> None:
    """Fill in mean, standard deviation and number of the finite values of each column."""
    defined = np.isfinite(reliabilities)
    n_used = defined.sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.where(defined, reliabilities, 0.0).sum(axis=0) / n_used
        squares = np.square(np.where(defined, reliabilities - mean, 0.0))
        result.std[columns] = np.sqrt(squares.sum(axis=0) / n_used)
    result.mean[columns] = mean
    result.n_used[columns] = n_used
