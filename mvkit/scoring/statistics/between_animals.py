"""Standard error of a median over the units of few animals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.statistics.hierarchy import split_by_sizes

#: Share of the values nearest to a median that tell the density there.
_CENTRAL_SHARE = 0.4
_MAX_STEPS = 200


def standard_error(
    columns: NDArray[np.float64], sizes: NDArray[np.int64], gradient: NDArray[np.float64]
) -> float:
    """Standard error of a smooth function of medians, by random effects of animals.

    Per animal the function's first-order value ``y_a = gradient . (medians of its units)`` has variance
    ``v_a = tau^2 + sigma^2 / n_a``. The pooled medians weigh animals by their units, ``w_a = n_a / n``, so

        se^2 = q sum(w_a^2 v_a),   q = sum(g_a (y_a - mean)^2) / (n_animals - 1),   g_a = 1 / v_a

    with the mean weighted by ``g_a``. ``tau^2`` is Paule and Mandel's estimate (1982, J. Res. NBS 87:377).
    Scaling by ``q`` and taking quantiles of Student's t with ``n_animals - 1`` degrees of freedom is Hartung
    and Knapp's interval (2001, Stat. Med. 20:3875) for other weights than ``g_a``. With equal ``n_a`` it is
    the plain standard error of the mean of ``y_a``, whatever ``tau`` and ``sigma``.

    Parameters
    ----------
    columns
        float64 (n_columns, n_units), units in the order of their animals.
    sizes
        int64 (n_animals,), at least two animals: units of each.
    gradient
        float64 (n_columns,): derivatives by the pooled medians.
    """
    medians = np.stack(
        [np.median(part, axis=1) for part in split_by_sizes(columns, sizes)], axis=1
    )  # (n_columns, n_animals)
    values = gradient @ medians
    within = _unit_variance(columns, np.repeat(medians, sizes, axis=1), gradient) / sizes
    variances = within + _between(values, within)
    scale = float(variances.max())
    if not scale > 0.0:
        return 0.0
    weights = scale / np.maximum(variances, 1e-12 * scale)
    mean = float(weights @ values / weights.sum())
    excess = float(weights @ (values - mean) ** 2 / scale / (len(sizes) - 1))
    share = sizes / sizes.sum()
    return math.sqrt(excess * float(share**2 @ variances))


def _between(values: NDArray[np.float64], within: NDArray[np.float64]) -> float:
    """Paule and Mandel's variance between animals: the one at which the weighted spread is as expected."""
    free = len(values) - 1

    def surplus(between: float) -> tuple[float, float]:
        weights = 1.0 / (within + between)
        deviations = values - weights @ values / weights.sum()
        return float(weights @ deviations**2) - free, float(weights**2 @ deviations**2)

    largest = float(values.var(ddof=1))
    if within.min() > 0.0:
        if surplus(0.0)[0] <= 0.0:
            return 0.0
        between = 0.0
    else:
        # Without variance within animals all of it is between them.
        return largest
    # Newton's method from the left converges monotonically: the spread is convex and falls (DerSimonian &
    # Kacker 2007, Contemp. Clin. Trials 28:105).
    for _ in range(_MAX_STEPS):
        excess, slope = surplus(between)
        if excess <= 1e-10 * free:
            break
        between += excess / slope
    return between


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
