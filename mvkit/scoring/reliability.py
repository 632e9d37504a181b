"""Reliability of responses, without any model: two sets of trials correlated over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError, unknown_name
from mvkit.scoring.correlation import centre, correlate, correlate_by, spearman_brown, whole_reliability
from mvkit.scoring.protocol import (
    half_means,
    halves_of,
    split_half_groups,
    split_half_weights,
    trial_orders,
    trial_orders_in_sequence,
)
from mvkit.scoring.settings import ScoreSettings

Draws = Literal["per_trial_seed", "per_unit_seed0"]
_DRAWS = {"per_trial_seed": trial_orders, "per_unit_seed0": trial_orders_in_sequence}

# Half-means of this many bytes stay in a core's cache between the steps they go through.
_CACHED_BYTES = 8 * 2**20


def response_reliability(responses: NDArray[np.floating], settings: ScoreSettings) -> NDArray[np.float64]:
    """Reliability of every unit in every pair of halves that settings ask for.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing; sets of trials are averaged ignoring it.
    settings
        ``halving``, ``synchronous``, ``n_halves``, ``halves_seed`` and ``correlation`` are used. Halves are
        corrected to all trials by Spearman and Brown's formula; resamplings as large as all trials are not
        (:func:`~mvkit.scoring.correlation.whole_reliability`).

    Returns
    -------
    ndarray
        float64 (n_halves, n_units); NaN where a set has no valid trial for some image or does not vary.

    Raises
    ------
    UsageError
        If there are fewer than two trials.
    """
    n_trials, n_images, _ = responses.shape
    _require_two(n_trials)
    weights = split_half_weights(n_trials, n_images, settings)
    return whole_reliability(correlate_sets(responses, weights, correlation=settings.correlation), settings)


def correlate_sets(
    responses: NDArray[np.floating], weights: NDArray[np.generic], *, correlation: str = "pearson"
) -> NDArray[np.float64]:
    """Correlate the mean responses of two sets of trials over images, not corrected for anything.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    weights
        (n_halves, 2, n_trials[, n_images]): how often each trial counts in each set.
    correlation
        ``"pearson"`` or ``"spearman"``.

    Returns
    -------
    ndarray
        float64 (n_halves, n_units).
    """
    result = np.empty((weights.shape[0], responses.shape[2]))
    for group in split_half_groups(weights.shape[0], responses[0].size):
        means = centre(half_means(responses, weights[group]), axis=2)
        result[group] = correlate_by(correlation, means[:, 0], means[:, 1])
    return result


def split_half_reliability(
    responses: NDArray[np.floating],
    *,
    n_halves: int = 100,
    draws: Draws = "per_trial_seed",
    seed: int = 0,
) -> NDArray[np.float64]:
    """Correlate the two halves of the trials over all images, corrected by Spearman and Brown's formula.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing; halves are means that ignore it.
    n_halves
        Split halves of the trials.
    draws
        ``"per_trial_seed"``: pair of halves ``b`` shuffles the trials by ``RandomState(seed + b)``.
        ``"per_unit_seed0"``: the split halves are successive shuffles of one ``RandomState(seed)``, the same
        ones for every unit. Both as in the 2020 code (goldens section 4, ``reliability.npz``).
    seed
        Where the draws begin.

    Returns
    -------
    ndarray
        float64 (n_halves, n_units); NaN where a half has no valid trial for some image or does not vary.

    Raises
    ------
    UsageError
        If ``draws`` is not one of the two, or there are fewer than two trials.
    """
    if draws not in _DRAWS:
        raise unknown_name("way of drawing halves", draws, _DRAWS)
    n_trials = responses.shape[0]
    _require_two(n_trials)
    members = halves_of(_DRAWS[draws](n_trials, n_halves=n_halves, seed=seed))
    means = centre(half_means(responses, members), axis=2)
    return spearman_brown(correlate(means[:, 0], means[:, 1]))


def _require_two(n_trials: int) -> None:
    if n_trials < 2:
        raise UsageError(f"a split-half reliability needs two trials, got {n_trials}")


@dataclass(frozen=True)
class ReliabilityMoments:
    """Split-half reliability of each column, condensed over split halves.

    Attributes
    ----------
    mean, std
        float64 (n_columns,): over the split halves in which it is defined (std: population, ddof 0); NaN
        where there is none.
    n_used
        int64 (n_columns,): those split halves.
    n_missing
        int64 (n_columns,): split halves in which a half has no valid trial for some image. In all others that
        are not used a half does not vary over the images.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    n_used: NDArray[np.int64]
    n_missing: NDArray[np.int64]


def split_half_moments(responses: NDArray[np.floating], members: NDArray[np.bool_]) -> ReliabilityMoments:
    """Measure Spearman-Brown corrected split-half reliabilities and condense them over split halves.

    Same numbers as from :func:`split_half_reliability`, in bounded memory.

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
    means = centre(half_means(values, members), axis=2)
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
