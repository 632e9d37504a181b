"""Confidence intervals over animals and their units."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.statistics.area_levels import without_area_levels
from mvkit.scoring.statistics.between_animals import standard_error
from mvkit.scoring.statistics.hierarchy import Draws, animal_order, medians_of_counts

#: Named in every file of results.
METHOD = (
    "hierarchical bootstrap (animals, then units) of the median, percentiles, scaled to the width "
    "2 t(n_animals - 1) s.e., s.e. from random effects of animals"
)
NO_UNITS = "no unit with a score"
ONE_ANIMAL = "one animal only: nothing is known of the variation between animals"


@dataclass(frozen=True)
class Interval:
    """A confidence interval and what it is over.

    Attributes
    ----------
    low, high
        Bounds; NaN with a ``reason``.
    n_units, n_animals
        Units without NaN, and their animals.
    reason
        Why there is no interval, or "".
    """

    low: float
    high: float
    n_units: int
    n_animals: int
    reason: str


@dataclass(frozen=True)
class Statistic:
    """A smooth function of the medians of several columns over the same units.

    Attributes
    ----------
    of_medians
        (n_columns, ...) -> (...).
    gradient
        Medians (n_columns,) -> derivatives (n_columns,).
    """

    of_medians: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    gradient: Callable[[NDArray[np.float64]], NDArray[np.float64]]


#: The median of one column.
MEDIAN = Statistic(lambda medians: medians[0], np.ones_like)


def median_interval(
    values: NDArray[np.floating],
    animals: NDArray[np.generic],
    settings: ScoreSettings,
    *,
    areas: NDArray[np.generic] | None = None,
    draws: Draws | None = None,
) -> Interval:
    """Confidence interval of the median over units, for animals and units other than those recorded.

    Animals are drawn with replacement, then units of each with replacement
    (:func:`~mvkit.scoring.statistics.hierarchy.resampled_medians`); the interval is that of the percentiles,
    scaled about the median to the width ``2 t s``: ``t`` the quantile of Student's distribution with
    ``n_animals - 1`` degrees of freedom, ``s`` the standard error of
    :func:`~mvkit.scoring.statistics.between_animals.standard_error`. Without the scaling the interval is too
    narrow for few animals that differ (their spread is underestimated by (n - 1) / n and taken for known) and
    too wide for animals that do not (the variance of units is counted twice): Davison & Hinkley 1997,
    section 3.8; Hesterberg 2015, Am. Stat. 69:371, section 3.2. Coverage in simulations: docs/simulation.md.

    Parameters
    ----------
    values
        float (n_units,), NaN = no score.
    animals
        (n_units,): animal of each unit. An animal is drawn as a whole, with its units of all areas.
    settings
        ``n_resamples``, ``confidence`` and ``resampling_seed``.
    areas
        (n_units,): area of each unit, where the median is over several: their levels then do not count as
        differences between animals, see
        :func:`~mvkit.scoring.statistics.area_levels.without_area_levels`.
    draws
        Those of :func:`draws_of`, to share among several intervals; None draws anew. The result is the same.

    Returns
    -------
    Interval
        NaN with a reason where there are no two animals with a score.
    """
    return statistic_interval(np.asarray(values)[None], animals, MEDIAN, settings, areas=areas, draws=draws)


def statistic_interval(
    columns: NDArray[np.floating],
    animals: NDArray[np.generic],
    statistic: Statistic,
    settings: ScoreSettings,
    *,
    areas: NDArray[np.generic] | None = None,
    draws: Draws | None = None,
) -> Interval:
    """Confidence interval of a function of medians, as :func:`median_interval`, on shared draws.

    Parameters
    ----------
    columns
        float (n_columns, n_units); a unit that is NaN in any column takes no part.
    animals
        (n_units,).
    statistic
        What is to be bounded.
    settings, areas, draws
        As in :func:`median_interval`.
    """
    values = np.asarray(columns, dtype=np.float64)
    order, sizes = animal_order(values, animals)
    kept = np.ascontiguousarray(values[:, order])
    numbers = int(kept.shape[1]), len(sizes)
    if len(sizes) < 2:
        return Interval(math.nan, math.nan, *numbers, ONE_ANIMAL if len(sizes) else NO_UNITS)
    medians = np.median(kept, axis=1)
    centre = float(statistic.of_medians(medians))
    levelled = kept
    if areas is not None:
        _, area = np.unique(np.asarray(areas)[order], return_inverse=True)
        levelled = without_area_levels(kept, np.repeat(np.arange(len(sizes)), sizes), area)
    error = standard_error(levelled, sizes, statistic.gradient(medians))
    counts = (draws or draws_of(settings)).counts(sizes)
    resampled = statistic.of_medians(medians_of_counts(kept, counts))
    tail = 0.5 * (1.0 - settings.confidence)
    below, above = np.quantile(resampled, [tail, 1.0 - tail]) - centre
    # The centre lies within the percentiles save by an accident of many ties.
    below, above = min(float(below), 0.0), max(float(above), 0.0)
    width = 2.0 * student_quantile(1.0 - tail, len(sizes)) * error
    if above > below:
        below, above = below * width / (above - below), above * width / (above - below)
    else:
        below, above = -0.5 * width, 0.5 * width
    return Interval(centre + below, centre + above, *numbers, "")


def draws_of(settings: ScoreSettings) -> Draws:
    """Return the resamples that settings ask for."""
    return Draws(n_resamples=settings.n_resamples, seed=settings.resampling_seed)


def student_quantile(share: float, n_animals: int) -> float:
    """Quantile of Student's t with ``n_animals - 1`` degrees of freedom."""
    # Not scipy.stats, which takes a second to import.
    from scipy.special import stdtrit

    return float(stdtrit(n_animals - 1, share))


def p_value(centre: float, interval: Interval, settings: ScoreSettings) -> float:
    """Two-sided p value of "the true value is 0", such that p < 1 - confidence where 0 lies outside.

    Student's t with ``n_animals - 1`` degrees of freedom, of the distance to 0 in standard errors, these
    taken from the side of the interval that faces 0. NaN where there is no interval.
    """
    from scipy.special import stdtr

    if interval.reason:
        return math.nan
    if centre == 0.0:
        return 1.0
    side = centre - interval.low if centre > 0.0 else interval.high - centre
    if side <= 0.0:
        return 0.0
    quantile = student_quantile(0.5 + 0.5 * settings.confidence, interval.n_animals)
    return float(2.0 * stdtr(interval.n_animals - 1, -abs(centre) / side * quantile))
