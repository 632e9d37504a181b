"""Confidence intervals of medians over animals and their units.

A hierarchical bootstrap draws animals with replacement, then units of each drawn animal with replacement.
:func:`median_interval` turns its percentiles into an interval. Where several networks (training runs that
differ in their seed) are pooled as one model, networks are drawn with replacement too, and their variance is
part of the interval: animals and networks are crossed random effects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.scoring.settings import ScoreSettings

#: Named in every file of results.
METHOD = (
    "hierarchical bootstrap (animals, then units) of the median, percentiles, scaled to the width "
    "2 t(n_animals - 1) s.e., s.e. from random effects of animals; pooled networks are drawn, too, and the "
    "variance of their medians is added; none for fewer than three animals"
)
NO_UNITS = "no unit with a score"
#: With two animals Student's t has one degree of freedom: their interval would be 13 standard errors wide.
MIN_ANIMALS = 3
#: Share of the values nearest to a median from which the density there is estimated.
_CENTRAL_SHARE = 0.4
#: tau^2 / (tau^2 + typical sigma^2 / n_a), evenly over what it can be.
_TAU_SHARES = (np.arange(40) + 0.5) / 40
#: Variance within animals relative to that between them that is rounding.
_NEGLIGIBLE = 1e-12
#: Bytes of resamples that are kept for further intervals.
_MOST_SHARED = 128 * 1024 * 1024


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
    freedom
        Degrees of freedom of Student's t; NaN without an interval.
    """

    low: float
    high: float
    n_units: int
    n_animals: int
    reason: str
    freedom: float = field(default=math.nan, compare=False)


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
    networks: Sequence[NDArray[np.float64]] = (),
) -> Interval:
    """Confidence interval of the median over units, for animals and units other than those recorded.

    Animals are drawn with replacement, then units of each with replacement; the interval is that of the
    percentiles, scaled about the median to the width ``2 t s``: ``t`` the quantile of Student's distribution
    with ``n_animals - 1`` degrees of freedom, ``s`` the :func:`standard_error`. Without the scaling the
    interval is too narrow for few animals that differ (their spread is underestimated by (n - 1) / n and
    treated as exact) and too wide for animals that do not (the variance of units is counted twice): Davison &
    Hinkley 1997, section 3.8; Hesterberg 2015, Am. Stat. 69:371, section 3.2. Coverage in simulations:
    docs/science/simulation.md.

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
        differences between animals, see :func:`subtract_area_levels`.
    networks
        Where values are means over several networks: float64 (n_networks, n_units), by how much each network
        differs from the mean; several such where groups of networks are compared.

    Returns
    -------
    Interval
        NaN with a reason where fewer than :data:`MIN_ANIMALS` animals have a score.

    Notes
    -----
    With networks, ``s^2`` is the sum of the squared :func:`standard_error` over animals, of the means over
    networks, and for each group of K networks of the variance of their K medians over K (both with their
    noise: what an animal and a network have in common counts in both). ``t`` has the degrees of freedom of
    Welch and Satterthwaite, from n_animals - 1 and K - 1: two or three networks give wide intervals.
    """
    groups = [deviations[:, None] for deviations in networks]
    columns = np.asarray(values)[None]
    return statistic_interval(columns, animals, MEDIAN, settings, areas=areas, networks=groups)


def statistic_interval(
    columns: NDArray[np.floating],
    animals: NDArray[np.generic],
    statistic: Statistic,
    settings: ScoreSettings,
    *,
    areas: NDArray[np.generic] | None = None,
    networks: Sequence[NDArray[np.float64]] = (),
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
    settings, areas
        As in :func:`median_interval`.
    networks
        As there, float64 (n_networks, n_columns, n_units) each.
    """
    values = np.asarray(columns, dtype=np.float64)
    order, sizes = animal_order(values, animals)
    valid = np.ascontiguousarray(values[:, order])
    numbers = int(valid.shape[1]), len(sizes)
    if len(sizes) < MIN_ANIMALS:
        return Interval(math.nan, math.nan, *numbers, few_animals(len(sizes)) if len(sizes) else NO_UNITS)
    medians = np.median(valid, axis=1)
    centre = float(statistic.of_medians(medians))
    levelled = valid
    if areas is not None:
        _, area = np.unique(np.asarray(areas)[order], return_inverse=True)
        levelled = subtract_area_levels(valid, np.repeat(np.arange(len(sizes)), sizes), area)
    error = standard_error(levelled, sizes, statistic.gradient(medians))
    counts = _shared_counts(sizes, settings)
    tail = 0.5 * (1.0 - settings.confidence)
    if networks:
        deviations = [group[:, :, order] for group in networks]
        resampled = statistic.of_medians(_medians_of_networks(valid, deviations, counts, settings))
        error, freedom = _with_networks(valid, deviations, statistic, error, len(sizes))
    else:
        resampled = statistic.of_medians(medians_of_counts(valid, counts))
        freedom = float(len(sizes) - 1)
    below, above = np.quantile(resampled, [tail, 1.0 - tail]) - centre
    # The centre lies within the percentiles save by an accident of many ties.
    below, above = min(float(below), 0.0), max(float(above), 0.0)
    width = 2.0 * student_quantile(1.0 - tail, freedom) * error
    if above > below:
        below, above = below * width / (above - below), above * width / (above - below)
    else:
        below, above = -0.5 * width, 0.5 * width
    return Interval(centre + below, centre + above, *numbers, "", freedom)


def few_animals(n_animals: int) -> str:
    """Say that so few animals have no interval: ``2 animals: no interval``."""
    return f"{n_animals} animal{'' if n_animals == 1 else 's'}: no interval"


def _with_networks(
    columns: NDArray[np.float64],
    networks: Sequence[NDArray[np.float64]],
    statistic: Statistic,
    error: float,
    n_animals: int,
) -> tuple[float, float]:
    """Add the variance of networks to a standard error over animals; also return degrees of freedom."""
    terms = [(error**2, n_animals - 1)]
    for group in networks:
        values = statistic.of_medians(np.median(columns + group, axis=2).T)
        terms.append((float(values.var(ddof=1)) / len(group), len(group) - 1))
    variance = sum(term for term, _ in terms)
    uncertainty = sum(term**2 / freedom for term, freedom in terms)
    return math.sqrt(variance), variance**2 / uncertainty if uncertainty > 0.0 else float(n_animals - 1)


def _medians_of_networks(
    columns: NDArray[np.float64],
    networks: Sequence[NDArray[np.float64]],
    counts: NDArray[np.uint16],
    settings: ScoreSettings,
) -> NDArray[np.float64]:
    """Medians of resamples for which networks of each group are drawn with replacement, too."""
    random = np.random.RandomState(settings.resampling_seed)
    sizes = [len(group) for group in networks]
    picks = np.concatenate(
        [np.sort(random.randint(0, size, (len(counts), size)), axis=1) for size in sizes], axis=1
    )
    distinct, which = np.unique(picks, axis=0, return_inverse=True)
    medians = np.empty((len(columns), len(counts)))
    for index, drawn in enumerate(distinct):
        chosen = which.ravel() == index
        values = columns.copy()
        for group, part in zip(networks, np.split(drawn, np.cumsum(sizes)[:-1]), strict=True):
            values += group[part].mean(axis=0)
        medians[:, chosen] = medians_of_counts(values, counts[chosen])
    return medians


def describe_median(
    scores: NDArray[np.float64],
    specimens: NDArray[np.int64],
    settings: ScoreSettings,
    *,
    areas: NDArray[np.generic] | None = None,
    reason: str = "",
    networks: Sequence[NDArray[np.float64]] = (),
) -> dict[str, float | int | str]:
    """Describe the scores of units.

    Parameters
    ----------
    scores
        float64 (n_units,), NaN = no score.
    specimens
        int64 (n_units,).
    settings
        Those of intervals.
    areas, networks
        As in :func:`median_interval`.
    reason
        Why there are no scores, or "".

    Returns
    -------
    dict
        ``median``; ``sem``, the standard deviation (ddof 1) over units over the square root of their number;
        ``low`` and ``high`` of :func:`median_interval`; ``n_units`` and
        ``n_animals`` with a score, ``n_nan`` units without; ``reason`` for bounds that are NaN, or "".
    """
    valid = scores[~np.isnan(scores)]
    interval = median_interval(scores, specimens, settings, areas=areas, networks=networks)
    return {
        "median": float(np.median(valid)) if valid.size else math.nan,
        "sem": float(valid.std(ddof=1) / math.sqrt(valid.size)) if valid.size > 1 else math.nan,
        "low": interval.low,
        "high": interval.high,
        "n_units": interval.n_units,
        "n_animals": interval.n_animals,
        "n_nan": int(scores.size) - interval.n_units,
        "reason": (reason or interval.reason) if interval.reason else "",
    }


def p_value(centre: float, interval: Interval, settings: ScoreSettings) -> float:
    """Two-sided p value of "the true value is 0", such that p < 1 - confidence where 0 lies outside.

    Student's t with the interval's degrees of freedom, of the distance to 0 in standard errors, these
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
    quantile = student_quantile(0.5 + 0.5 * settings.confidence, interval.freedom)
    return float(2.0 * stdtr(interval.freedom, -abs(centre) / side * quantile))


def student_quantile(share: float, freedom: float) -> float:
    """Quantile of Student's t with so many degrees of freedom."""
    # Not scipy.stats, which takes a second to import.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def standard_error(
    columns: NDArray[np.float64], sizes: NDArray[np.int64], gradient: NDArray[np.float64]
) -> float:
    """Standard error of a smooth function of medians, by random effects of animals.

    Per animal the function's first-order value ``y_a = gradient . (medians of its units)`` has variance
    ``v_a = tau^2 + sigma^2 / n_a``. The pooled medians weigh animals by their units, ``w_a = n_a / n``, so

        se^2 = q sum(w_a^2 v_a),   q = sum(g_a (y_a - mean)^2) / (n_animals - 1),   g_a = 1 / v_a

    with the mean weighted by ``g_a``. With ``q`` and Student's t with ``n_animals - 1`` degrees of freedom
    this is the interval of Hartung and Knapp (2001, Stat. Med. 20:3875) for other weights than ``g_a``. With
    equal ``n_a`` it is the plain standard error of the mean of ``y_a``, whatever ``tau`` and ``sigma``. With
    unequal ones it depends on ``tau``, which few animals hardly determine: ``se^2`` is averaged over ``tau``,
    by its restricted likelihood. (The single best ``tau`` is 0 too often; intervals would cover 86 % where
    one of three animals has most units.)

    Parameters
    ----------
    columns
        float64 (n_columns, n_units), units in the order of their animals.
    sizes
        int64 (n_animals,), at least two animals: units of each.
    gradient
        float64 (n_columns,): derivatives by the pooled medians.
    """
    parts = np.split(columns, np.cumsum(sizes)[:-1], axis=1)
    medians = np.stack([np.median(part, axis=1) for part in parts], axis=1)
    values = gradient @ medians
    share = sizes / sizes.sum()
    # The mean of equal values may differ from them by rounding.
    spread = float(values.var(ddof=1)) if np.ptp(values) > 0.0 else 0.0
    within = _unit_variance(columns, np.repeat(medians, sizes, axis=1), gradient) / sizes
    if not within.max() > _NEGLIGIBLE * spread:
        # Animals differ and their units do not: all variances are equal.
        return math.sqrt(spread * float(share**2 @ np.ones_like(share)))
    return math.sqrt(_average_variance(values, within, share))


def _average_variance(
    values: NDArray[np.float64], within: NDArray[np.float64], share: NDArray[np.float64]
) -> float:
    """Average the variance over tau by the restricted likelihood of a normal model."""
    typical = 1.0 / float(np.mean(1.0 / within))
    variances = within + typical * (_TAU_SHARES / (1.0 - _TAU_SHARES))[:, None]  # (n_tau, n_animals)
    weights = 1.0 / variances
    total = weights.sum(axis=1)
    deviations = values - ((weights @ values) / total)[:, None]
    surplus = (weights * deviations**2).sum(axis=1)
    log_likelihood = -0.5 * (np.log(variances).sum(axis=1) + np.log(total) + surplus)
    likelihood = np.exp(log_likelihood - log_likelihood.max())
    estimates = surplus / (len(values) - 1) * (variances @ share**2)
    return float(likelihood @ estimates / likelihood.sum())


def _unit_variance(
    columns: NDArray[np.float64], centres: NDArray[np.float64], gradient: NDArray[np.float64]
) -> float:
    """Variance that one unit contributes within its animal, by the influence function of the median.

    A value ``x`` moves the median ``m`` by ``sign(x - m) / (2 f(m))`` over the number of values, with f the
    density (Huber 1981, "Robust Statistics", section 3.3).
    """
    deviations = columns - centres
    half_widths = np.quantile(np.abs(deviations), _CENTRAL_SHARE, axis=1)
    # f = share / (2 width), so 1 / (2 f) = width / share
    influences = np.sign(deviations) * (half_widths / _CENTRAL_SHARE)[:, None]
    return float(((gradient @ influences) ** 2).mean())


def subtract_area_levels(
    columns: NDArray[np.float64], animals: NDArray[np.int64], areas: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Subtract from each value the level of its area, as far as animals with several areas determine it.

    Animals have units in different areas, and areas differ in level. In a median over several areas the areas
    and the numbers of their units are as they are, not drawn: an animal is not unlike the others because more
    of its units lie in an area of high scores. Levels are fitted by least squares to the medians of cells
    (animal x area, weighted by units) beside a level per animal. Where no chain of animals joins two areas
    their levels cannot be separated from those of their animals, and the difference stays. Where animals have
    few areas each, levels are poorly determined and intervals become too wide, not too narrow: in simulations
    of six areas they cover 95 to 97 % with four or more areas per animal, 95 to 100 % with one or two.

    Parameters
    ----------
    columns
        float64 (n_columns, n_units), without NaN.
    animals, areas
        int64 (n_units,): positions, every one from 0 to the largest present.

    Returns
    -------
    ndarray
        float64 (n_columns, n_units); the mean level over units is left in.
    """
    n_animals, n_areas = int(animals.max()) + 1, int(areas.max()) + 1
    if n_areas == 1:
        return columns
    cells, cell_of, counts = np.unique(animals * n_areas + areas, return_inverse=True, return_counts=True)
    cell_animals, cell_areas = np.divmod(cells, n_areas)
    order = np.argsort(cell_of, kind="stable")
    parts = np.split(columns[:, order], np.cumsum(counts)[:-1], axis=1)
    medians = np.stack([np.median(part, axis=1) for part in parts])
    design = np.zeros((len(cells), n_animals + n_areas))
    design[np.arange(len(cells)), cell_animals] = 1.0
    design[np.arange(len(cells)), n_animals + cell_areas] = 1.0
    weights = np.sqrt(counts)[:, None]
    fitted = np.linalg.lstsq(design * weights, medians * weights, rcond=None)[0]
    levels = fitted[n_animals:]
    groups = _connect_areas(cell_animals, cell_areas, n_areas)
    units = np.bincount(areas, minlength=n_areas).astype(np.float64)
    for group in np.unique(groups):
        members = groups == group
        levels[members] -= np.average(levels[members], axis=0, weights=units[members])
    adjusted: NDArray[np.float64] = columns - levels[areas].T
    return adjusted


def _connect_areas(animals: NDArray[np.int64], areas: NDArray[np.int64], n_areas: int) -> NDArray[np.int64]:
    """Number areas so that those that animals join, directly or in a chain, share a number."""
    group = np.arange(n_areas)
    for animal in np.unique(animals):
        shared = group[areas[animals == animal]]
        group[np.isin(group, shared)] = shared.min()
    return group


#: Resamples by animals' sizes, number and seed, the oldest first.
_shared: dict[tuple[bytes, int, int], NDArray[np.uint16]] = {}
_sharing = Lock()


def _shared_counts(sizes: NDArray[np.int64], settings: ScoreSettings) -> NDArray[np.uint16]:
    """Return :func:`resampled_counts` of these sizes, drawn once for all intervals of a process.

    Layers and models have the same animals with, mostly, the same numbers of scored units. Where they have
    not, the oldest resamples make room, so that many layers or models take no more memory than a few.
    """
    n_resamples, seed = settings.n_resamples, settings.resampling_seed
    key = sizes.tobytes(), n_resamples, seed
    with _sharing:
        if key not in _shared:
            room = _MOST_SHARED - n_resamples * int(sizes.sum()) * np.dtype(np.uint16).itemsize
            while _shared and sum(counts.nbytes for counts in _shared.values()) > room:
                del _shared[next(iter(_shared))]
            _shared[key] = resampled_counts(sizes, n_resamples=n_resamples, seed=seed)
        return _shared[key]


def resampled_counts(sizes: NDArray[np.int64], *, n_resamples: int, seed: int) -> NDArray[np.uint16]:
    """Draw resamples as numbers of times that each unit is in them.

    Parameters
    ----------
    sizes
        int64 (n_animals,): units of each animal, all at least 1.
    n_resamples
        Resamples.
    seed
        Seed; equal seeds and sizes give equal draws on every machine.

    Returns
    -------
    ndarray
        uint16 (n_resamples, sum of sizes), units in the order of their animals.
    """
    from mvkit.scoring.kernels import draw_counts

    counts = np.zeros((n_resamples, int(sizes.sum())), dtype=np.uint16)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    units = np.empty(sizes.max(initial=0), dtype=np.uint32)
    draw_counts(starts, np.ascontiguousarray(sizes, dtype=np.int64), np.uint64(seed), units, counts)
    return counts


def resampled_column_medians(
    columns: NDArray[np.floating], animals: NDArray[np.generic], *, n_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Medians of several values per unit, over the same hierarchical bootstrap resamples.

    As many animals as there are are drawn with replacement, then from each drawn animal as many units as it
    has, with replacement (Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 3.8,
    strategy 2). A unit that is NaN in any column takes no part.

    Parameters
    ----------
    columns
        float (n_columns, n_units).
    animals
        (n_units,): animal of each unit.
    n_resamples, seed
        Resamples and their seed. The order of units does not matter, to the last bit.

    Returns
    -------
    ndarray
        float64 (n_columns, n_resamples); all NaN where no unit is left.

    Raises
    ------
    DataError
        If ``columns`` and ``animals`` do not belong to the same number of units.
    """
    order, sizes = animal_order(columns, animals)
    if not sizes.size:
        return np.full((len(columns), n_resamples), np.nan)
    ordered = np.asarray(columns, dtype=np.float64)[:, order]
    return medians_of_counts(ordered, resampled_counts(sizes, n_resamples=n_resamples, seed=seed))


def medians_of_counts(columns: NDArray[np.float64], counts: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Medians of resamples.

    Parameters
    ----------
    columns
        float64 (n_columns, n_units), without NaN.
    counts
        uint16 (n_resamples, n_units): how often each unit is in each resample.

    Returns
    -------
    ndarray
        float64 (n_columns, n_resamples).
    """
    from mvkit.scoring.kernels import count_medians

    medians = np.empty((columns.shape[0], counts.shape[0]))
    for index, values in enumerate(np.ascontiguousarray(columns, dtype=np.float64)):
        count_medians(values, np.argsort(values, kind="stable"), counts, medians[index])
    return medians


def animal_order(
    columns: NDArray[np.floating], animals: NDArray[np.generic]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort units without NaN by animal, then by value, so that the order they come in has no effect.

    Returns
    -------
    order, sizes
        int64 (n_valid,) positions of units, and int64 (n_animals,): units of each animal.

    Raises
    ------
    DataError
        If shapes do not fit.
    """
    values = np.asarray(columns, dtype=np.float64)
    labels = np.asarray(animals)
    if values.ndim != 2 or labels.shape != values.shape[1:]:
        raise DataError(
            f"values of shape {values.shape} and animals of shape {labels.shape}: give (n_columns, n_units) "
            "and (n_units,)"
        )
    valid = np.flatnonzero(~np.isnan(values).any(axis=0))
    _, group = np.unique(labels[valid], return_inverse=True)
    order = np.lexsort((*values[::-1, valid], group))
    return valid[order], np.bincount(group).astype(np.int64)
