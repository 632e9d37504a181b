"""Curves that continue a ceiling beyond the units or images there are, fitted to many sets of values at once.

- *saturating*: ``asymptote * (n / (n + half)) ** exponent``, exponent from 1/4 to 4. A unit that shares one
  signal with n noisy ones is predicted with a squared correlation of ``a^2 n / (n + h)`` at best (the Bayes
  estimate of a Gaussian signal, textbook arithmetic): exponent 1/2. Signals of many dimensions and of unequal
  variance flatten the curve, maps of few components steepen it; hence the range.
- *log-linear*: ``value + slope * ln(n / largest)``, which has no asymptote.

Neither is a law. Where the sizes end far below the asymptote, its place depends on the form of the curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError

Array = NDArray[np.float64]

LOWEST_EXPONENT, HIGHEST_EXPONENT = 0.25, 4.0
#: ``half`` lies between a hundredth of the smallest size (a flat curve) and a hundred times the largest (a
#: power law).
HALF_RANGE = 100.0
#: Sizes that a curve needs: one more than it has parameters.
N_SIZES_SATURATING = 4
N_SIZES_LOG_LINEAR = 3

_N_HALVES, _N_EXPONENTS = 49, 9
_N_STEPS = 200
# Levenberg-Marquardt: damping at first, and how it changes after a step that helps and one that does not.
_DAMPING, _CALMER, _WILDER = 1e-2, 0.3, 5.0
# A set is done when a step improves it by less than this share, or no step however small does.
_PRECISION, _MOST_DAMPING = 1e-12, 1e8
# Keeps the normal equations of a curve that is zero solvable.
_TINY = 1e-15


@dataclass(frozen=True)
class SaturatingCurves:
    """``asymptote * (n / (n + half)) ** exponent``, one curve per set of values.

    Attributes
    ----------
    asymptote, half, exponent
        float64 (n_sets,); NaN where a value is NaN.
    half_bounds
        The least and the greatest ``half`` that was considered.
    """

    asymptote: Array
    half: Array
    exponent: Array
    half_bounds: tuple[float, float]

    def at(self, size: float) -> Array:
        """Return the curves' values at a size, float64 (n_sets,)."""
        values: Array = self.asymptote * (size / (size + self.half)) ** self.exponent
        return values

    @property
    def still_rising(self) -> NDArray[np.bool_]:
        """Which curves rise like a power of size to the end, so that no asymptote can be seen."""
        rising: NDArray[np.bool_] = self.half >= 0.99 * self.half_bounds[1]
        return rising


@dataclass(frozen=True)
class LogLinearCurves:
    """``value + slope * ln(n / largest)``, one curve per set of values.

    Attributes
    ----------
    value, slope
        float64 (n_sets,); NaN where a value is NaN. ``value`` is the curve at the largest size.
    largest
        The largest size that was fitted.
    """

    value: Array
    slope: Array
    largest: float

    def at(self, size: float) -> Array:
        """Return the curves' values at a size, float64 (n_sets,)."""
        values: Array = self.value + self.slope * np.log(size / self.largest)
        return values


def fit_saturating(sizes: NDArray[np.integer], values: Array) -> SaturatingCurves:
    """Fit a saturating curve to every set of values by least squares within bounds.

    The best point of a grid of ``half`` and ``exponent`` (the asymptote follows from them) is improved by
    Levenberg and Marquardt's method, all sets at once; so no start value is needed.

    Parameters
    ----------
    sizes
        (n_sizes,) positive, different, at least four.
    values
        float64 (n_sets, n_sizes).

    Raises
    ------
    UsageError
        If there are fewer sizes than that, or some are not positive or equal.
    """
    given = _checked(sizes, n_needed=N_SIZES_SATURATING)
    bounds = (float(given.min()) / HALF_RANGE, float(given.max()) * HALF_RANGE)
    limits = np.array(
        [[0.0, np.log(bounds[0]), LOWEST_EXPONENT], [np.inf, np.log(bounds[1]), HIGHEST_EXPONENT]]
    )
    valid = ~np.isnan(values).any(axis=1)
    found = np.full((values.shape[0], 3), np.nan)
    if valid.any():
        found[valid] = _improved(given, values[valid], _best_of_grid(given, values[valid], limits), limits)
    return SaturatingCurves(found[:, 0], np.exp(found[:, 1]), found[:, 2], bounds)


def fit_log_linear(sizes: NDArray[np.integer], values: Array) -> LogLinearCurves:
    """Fit a line over the logarithm of size to every set of values by least squares.

    Parameters
    ----------
    sizes
        (n_sizes,) positive, different, at least three.
    values
        float64 (n_sets, n_sizes).

    Raises
    ------
    UsageError
        If there are fewer sizes than that, or some are not positive or equal.
    """
    given = _checked(sizes, n_needed=N_SIZES_LOG_LINEAR)
    logs = np.log(given / given.max())
    deviations = logs - logs.mean()
    slope = values @ deviations / (deviations @ deviations)
    return LogLinearCurves(values.mean(axis=1) - slope * logs.mean(), slope, float(given.max()))


def _checked(sizes: NDArray[np.integer], *, n_needed: int) -> Array:
    given = np.asarray(sizes, dtype=np.float64)
    if given.ndim != 1 or np.unique(given).size != given.size or given.size < n_needed or (given <= 0).any():
        raise UsageError(
            f"a curve needs at least {n_needed} different positive sizes, got {given.ravel().tolist()}"
        )
    return given


def _best_of_grid(sizes: Array, values: Array, limits: Array) -> Array:
    """Return (n_sets, 3): asymptote, ln half, exponent of the grid point of least squares."""
    log_halves = np.linspace(limits[0, 1], limits[1, 1], _N_HALVES)
    exponents = np.geomspace(limits[0, 2], limits[1, 2], _N_EXPONENTS)
    log_half, exponent = (part.ravel() for part in np.meshgrid(log_halves, exponents))
    shapes = (sizes / (sizes + np.exp(log_half)[:, None])) ** exponent[:, None]
    norms = np.square(shapes).sum(axis=1)
    asymptotes = np.maximum(values @ shapes.T / norms, 0.0)
    # The sum of squares without the part that is the same for all grid points.
    best = (asymptotes * (asymptotes * norms - 2.0 * (values @ shapes.T))).argmin(axis=1)
    return np.column_stack([asymptotes[np.arange(len(values)), best], log_half[best], exponent[best]])


def _improved(sizes: Array, values: Array, start: Array, limits: Array) -> Array:
    """Improve (asymptote, ln half, exponent) of each set until no step helps any more."""
    found = start.copy()
    damping = np.full(len(values), _DAMPING)
    residuals, slopes = _residuals(sizes, values, found)
    active = np.arange(len(values))
    for _ in range(_N_STEPS):
        trial = _stepped(found[active], residuals[active], slopes[active], damping[active], limits)
        new_residuals, new_slopes = _residuals(sizes, values[active], trial)
        old = np.square(residuals[active]).sum(axis=1)
        new = np.square(new_residuals).sum(axis=1)
        better = new < old
        improved = active[better]
        found[improved], residuals[improved] = trial[better], new_residuals[better]
        slopes[improved] = new_slopes[better]
        damping[active] *= np.where(better, _CALMER, _WILDER)
        done = np.where(better, old - new <= _PRECISION * old, damping[active] > _MOST_DAMPING)
        active = active[~done]
        if not active.size:
            break
    return found


def _stepped(current: Array, residuals: Array, slopes: Array, damping: Array, limits: Array) -> Array:
    """Take one damped Gauss-Newton step inside the limits; all arguments but the last hold a row per set."""
    downhill = np.einsum("kps,ks->kp", slopes, residuals)
    # A parameter at its limit that wants to go further rests, or it would hold up the others.
    stuck = ((current <= limits[0]) & (downhill < 0.0)) | ((current >= limits[1]) & (downhill > 0.0))
    free = np.where(stuck[:, :, None], 0.0, slopes)
    normal = free @ free.transpose(0, 2, 1)
    scale = np.einsum("kpp->kp", normal)
    normal += np.eye(3) * (scale * damping[:, None] + np.where(stuck, 1.0, _TINY))[:, None, :]
    step = np.linalg.solve(normal, np.where(stuck, 0.0, downhill)[:, :, None])[:, :, 0]
    trial: Array = np.clip(current + step, limits[0], limits[1])
    return trial


def _residuals(sizes: Array, values: Array, parameters: Array) -> tuple[Array, Array]:
    """Return values minus curves (n_sets, n_sizes), and the curves' derivatives (n_sets, 3, n_sizes)."""
    asymptote, exponent = parameters[:, :1], parameters[:, 2:]
    half = np.exp(parameters[:, 1:2])
    share = sizes / (sizes + half)
    shape = share**exponent
    curve = asymptote * shape
    slopes = np.stack([shape, -curve * exponent * half / (sizes + half), curve * np.log(share)], axis=1)
    return values - curve, slopes
