"""Curves fitted to the medians of an area, with what animals and units leave open."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.ceilings.extrapolation_bounds import Bounded, bounded_value
from mvkit.scoring.ceilings.extrapolation_curves import (
    N_SIZES_LOG_LINEAR,
    N_SIZES_SATURATING,
    LogLinearCurves,
    SaturatingCurves,
    fit_log_linear,
    fit_saturating,
)
from mvkit.scoring.intervals import Statistic, median_interval, resampled_column_medians, statistic_interval
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]
Row = dict[str, object]

#: An asymptote whose interval is wider than this (in units of correlation) is not determined by the data.
WIDEST = 0.2
#: Nor is one of a curve that lies further than this outside the interval of a median.
MISFIT = 0.01


@dataclass(frozen=True)
class FittedArea:
    """The curves of one area.

    Attributes
    ----------
    sizes
        int64 (n_sizes,): those with a median.
    medians
        float64 (1, n_sizes).
    resampled
        float64 (n_resamples, n_sizes): medians of hierarchical bootstrap resamples.
    saturating, log_linear
        Curves of the medians, or None where sizes are too few.
    asymptote
        Of the saturating curve. Its interval reaches out to the fit without the smallest size, like that of
        ``doubled``: animals and units do not know whether the form of the curve is right.
    doubled
        Curve -> its value at twice the largest size.
    missed
        Sizes at which the saturating curve misses the interval of the median.
    n_units, n_animals
        What medians are over.
    interval_reason
        Why there are no intervals, or "".
    """

    sizes: NDArray[np.int64]
    medians: Array
    resampled: Array
    saturating: SaturatingCurves | None
    log_linear: LogLinearCurves | None
    asymptote: Bounded | None
    doubled: dict[str, Bounded]
    missed: tuple[int, ...]
    n_units: int
    n_animals: int
    interval_reason: str

    @property
    def open_end(self) -> str:
        """Say why the data do not determine the asymptote, or ""."""
        if self.saturating is None or self.asymptote is None:
            return f"{self.sizes.size} sizes with a score; a saturating curve needs {N_SIZES_SATURATING}"
        if self.saturating.still_rising[0]:
            return "asymptote not determined: the curve still rises like a power at the largest size"
        if self.interval_reason:
            return f"asymptote without an interval: {self.interval_reason}"
        if self.missed:
            sizes = ", ".join(str(size) for size in self.missed)
            return f"asymptote not determined: the curve misses the intervals of the medians at size {sizes}"
        width = self.asymptote.high - self.asymptote.low
        if not width <= WIDEST:
            return f"asymptote not determined: its interval is {width:.2f} wide"
        return ""

    def rows(self, over: str) -> list[Row]:
        """Return a row per curve, see :meth:`Extrapolation.fits`."""
        return [self._saturating_row(), self._log_linear_row(over)]

    def _common(self, curve: SaturatingCurves | LogLinearCurves | None, name: str) -> Row:
        doubled = self.doubled.get(name, _NOTHING)
        fitted = np.full(self.sizes.size, np.nan)
        if curve is not None:
            fitted = np.array([curve.at(size)[0] for size in self.sizes])
        return {
            "size": int(self.sizes[-1]) if self.sizes.size else 0,
            "at_largest": float(fitted[-1]) if fitted.size else math.nan,
            "doubled": doubled.value,
            "doubled_low": doubled.low,
            "doubled_high": doubled.high,
            "rmse": float(np.sqrt(np.mean(np.square(fitted - self.medians[0])))) if fitted.size else math.nan,
            "n_units": self.n_units,
            "n_animals": self.n_animals,
        }

    def _saturating_row(self) -> Row:
        half = exponent = math.nan
        half_se = exponent_se = math.nan
        if self.saturating is not None:
            half, exponent = float(self.saturating.half[0]), float(self.saturating.exponent[0])
            if not self.interval_reason:
                refits = fit_saturating(self.sizes, self.resampled)
                half_se, exponent_se = float(refits.half.std(ddof=1)), float(refits.exponent.std(ddof=1))
        asymptote = self.asymptote or _NOTHING
        return {
            "curve": "saturating",
            "n_sizes": int(self.sizes.size),
            "asymptote": asymptote.value,
            "asymptote_se": asymptote.se,
            "asymptote_low": asymptote.low,
            "asymptote_high": asymptote.high,
            "half": half,
            "half_se": half_se,
            "exponent": exponent,
            "exponent_se": exponent_se,
            "slope": math.nan,
            "slope_se": math.nan,
            **self._common(self.saturating, "saturating"),
            "determined": not self.open_end,
            "reason": self.open_end,
        }

    def _log_linear_row(self, over: str) -> Row:
        slope = slope_se = math.nan
        reason = f"a log-linear curve has no asymptote: it predicts growth with every doubling of {over}"
        if self.log_linear is None:
            reason = f"{self.sizes.size} sizes with a score; a log-linear curve needs {N_SIZES_LOG_LINEAR}"
        else:
            slope = float(self.log_linear.slope[0])
            if not self.interval_reason:
                slope_se = float(fit_log_linear(self.sizes, self.resampled).slope.std(ddof=1))
        return {
            "curve": "log-linear",
            "n_sizes": int(self.sizes.size),
            **dict.fromkeys(_OF_SATURATING, math.nan),
            "slope": slope,
            "slope_se": slope_se,
            **self._common(self.log_linear, "log-linear"),
            "determined": False,
            "reason": reason,
        }


_OF_SATURATING = (
    *("asymptote", "asymptote_se", "asymptote_low", "asymptote_high"),
    *("half", "half_se", "exponent", "exponent_se"),
)
_NOTHING = Bounded(math.nan, math.nan, math.nan, math.nan)


def fit_area(
    sizes: NDArray[np.int64], scores: Array, animals: NDArray[np.int64], settings: ScoreSettings
) -> FittedArea:
    """Fit both curves to the medians of an area.

    Parameters
    ----------
    sizes
        int64 (n_sizes,).
    scores
        float64 (n_sizes, n_units): the same units at every size; a size without scores takes no part.
    animals
        int64 (n_units,).
    settings
        Resampling.
    """
    known = ~np.isnan(scores).all(axis=1) if scores.size else np.zeros(sizes.size, dtype=np.bool_)
    valid = ~np.isnan(scores[known]).any(axis=0)
    columns, owners, kept = scores[known][:, valid], animals[valid], sizes[known]
    medians = np.median(columns, axis=1)[None] if columns.size else np.empty((1, 0))
    resampled = resampled_column_medians(
        columns, owners, n_resamples=settings.n_resamples, seed=settings.resampling_seed
    ).T
    reason = statistic_interval(columns, owners, _largest(), settings).reason

    def bounded(of_fit: Callable[[Any], Array], fit: Callable[[NDArray[np.int64], Array], Any]) -> Bounded:
        found = bounded_value(
            lambda values: of_fit(fit(kept, values)), columns, owners, settings, (medians, resampled)
        )
        if kept.size <= N_SIZES_SATURATING:
            return found
        # What the form of the curve leaves open shows in how much the smallest size matters.
        other = float(of_fit(fit(kept[1:], medians[:, 1:]))[0])
        return replace(found, low=min(found.low, other), high=max(found.high, other))

    saturating = fit_saturating(kept, medians) if kept.size >= N_SIZES_SATURATING else None
    log_linear = fit_log_linear(kept, medians) if kept.size >= N_SIZES_LOG_LINEAR else None
    twice = 2.0 * float(kept[-1]) if kept.size else math.nan
    doubled: dict[str, Bounded] = {}
    asymptote = None
    if saturating is not None:
        doubled["saturating"] = bounded(lambda curves: curves.at(twice), fit_saturating)
        asymptote = bounded(lambda curves: curves.asymptote, fit_saturating)
        # The curve itself is bounded there.
        asymptote = replace(asymptote, low=max(asymptote.low, 0.0))
    if log_linear is not None:
        doubled["log-linear"] = bounded(lambda curves: curves.at(twice), fit_log_linear)
    return FittedArea(
        sizes=kept,
        medians=medians,
        resampled=resampled,
        saturating=saturating,
        log_linear=log_linear,
        asymptote=asymptote,
        doubled=doubled,
        missed=() if saturating is None else _missed(kept, saturating, columns, owners, settings),
        n_units=int(valid.sum()) if kept.size else 0,
        n_animals=int(np.unique(owners).size) if kept.size else 0,
        interval_reason=reason,
    )


def _missed(
    sizes: NDArray[np.int64],
    curve: SaturatingCurves,
    columns: Array,
    animals: NDArray[np.int64],
    settings: ScoreSettings,
) -> tuple[int, ...]:
    intervals = [median_interval(values, animals, settings) for values in columns]
    low, high = (np.array([getattr(interval, end) for interval in intervals]) for end in ("low", "high"))
    values = np.array([float(curve.at(size)[0]) for size in sizes])
    return tuple(sizes[(values < low - MISFIT) | (values > high + MISFIT)].tolist())


def _largest() -> Statistic:
    """Return the median at the largest size as a statistic."""
    return Statistic(lambda medians: medians[-1], lambda medians: np.eye(len(medians))[-1])
