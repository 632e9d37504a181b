"""Intervals of what is fitted to the medians of several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.intervals import Statistic, statistic_interval
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]

# Step of the medians for derivatives of a fitted value.
_STEP = 1e-4


@dataclass(frozen=True)
class Bounded:
    """A number, its standard error and its interval."""

    value: float
    se: float
    low: float
    high: float


def bounded_value(
    function: Callable[[Array], Array],
    columns: Array,
    animals: NDArray[np.int64],
    settings: ScoreSettings,
    medians_and_resampled: tuple[Array, Array],
) -> Bounded:
    """Bound a fitted value, ``function`` of medians (n_sets, n_sizes) -> (n_sets,).

    Each end is the outer one of two intervals: percentiles of the refits, which know of bounds and of
    skewness, and the interval of :func:`statistic_interval`, which knows how few animals there are. The
    second alone, being linear, would be too narrow where a fit jumps.
    """
    medians, resampled = medians_and_resampled
    value = float(function(medians)[0])
    interval = statistic_interval(
        columns, animals, Statistic(_by_columns(function), _slopes(function)), settings
    )
    if interval.reason:
        return Bounded(value, math.nan, math.nan, math.nan)
    refits = function(resampled)
    tail = 0.5 * (1.0 - settings.confidence)
    low, high = np.quantile(refits, [tail, 1.0 - tail])
    return Bounded(
        value, float(refits.std(ddof=1)), min(float(low), interval.low), max(float(high), interval.high)
    )


def _by_columns(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Let a function of (n_sets, n_sizes) take (n_sizes,) or (n_sizes, n_sets)."""

    def of_medians(medians: Array) -> Array:
        found: Array = function(np.atleast_2d(medians.T))
        return found if medians.ndim == 2 else found[0]

    return of_medians


def _slopes(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Derivatives of a fitted value by the medians, as central differences."""

    def gradient(medians: Array) -> Array:
        steps = _STEP * np.eye(medians.size)
        slopes: Array = (function(medians + steps) - function(medians - steps)) / (2.0 * _STEP)
        return slopes

    return gradient
