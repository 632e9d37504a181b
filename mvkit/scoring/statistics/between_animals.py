"""Standard error of a median over the units of few animals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.statistics.hierarchy import split_by_sizes

#: Share of the values nearest to a median that tell the density there.
_CENTRAL_SHARE = 0.4
#: tau^2 / (tau^2 + typical sigma^2 / n_a), evenly over what it can be.
_TAU_SHARES = (np.arange(40) + 0.5) / 40
#: Variance within animals relative to that between them that is rounding.
_NEGLIGIBLE = 1e-12


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
    unequal ones it depends on ``tau``, which few animals hardly tell: ``se^2`` is averaged over ``tau``, by
    its restricted likelihood. (The single best ``tau`` is 0 too often; intervals would cover 86 % where one
    of three animals has most units.)

    Parameters
    ----------
    columns
        float64 (n_columns, n_units), units in the order of their animals.
    sizes
        int64 (n_animals,), at least two animals: units of each.
    gradient
        float64 (n_columns,): derivatives by the pooled medians.
    """
    parts = split_by_sizes(columns, sizes)
    medians = np.stack([np.median(part, axis=1) for part in parts], axis=1)
    values = gradient @ medians
    share = sizes / sizes.sum()
    # The mean of equal values may differ from them by rounding.
    spread = float(values.var(ddof=1)) if np.ptp(values) > 0.0 else 0.0
    within = _unit_variance(columns, np.repeat(medians, sizes, axis=1), gradient) / sizes
    if not within.max() > _NEGLIGIBLE * spread:
        # Animals differ and their units do not: all variances are equal.
        return math.sqrt(spread * float(share**2 @ np.ones_like(share)))
    return math.sqrt(_averaged_variance(values, within, share))


def _averaged_variance(
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
