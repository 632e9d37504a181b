"""Ceilings as a function of the number of source units, or of images, and curves that continue them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.errors import UsageError
from mvkit.jsonable import plain
from mvkit.naming import unknown_name
from mvkit.scoring.ceilings import (
    ALONE,
    PairDraws,
    PairSize,
    draw_pair,
    joined_halvings,
    pairs_of,
    pooled_responses,
    predicting_units,
    score_pair,
)
from mvkit.scoring.intervals import Statistic, median_interval, resampled_column_medians, statistic_interval
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.processes import by_place
from mvkit.scoring.protocol import HalvingScores, recordings_digest, splits_of
from mvkit.scoring.results import ALL_AREAS, POPULATION
from mvkit.scoring.run import Progress, check_recordings, estimate
from mvkit.scoring.settings import RecordingLike, ScoreSettings

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


def extrapolate_ceiling(
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings,
    over: Over,
    *,
    n_points: int = 6,
    sizes: Sequence[int] | None = None,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> Extrapolation:
    """Measure the consistency between animals with fewer source units or images, and fit curves to it.

    The paper extrapolates its ceilings with the numbers of units and of stimuli (supplementary figures S5 and
    S6, not checked against the paper's text); the curves fitted here are mvkit's own choice, see
    :mod:`mvkit.scoring.extrapolation`.

    *Units*: every halving predicts from a random sub-sample of the source units of each size. *Stimuli*:
    random subsets of the images, split anew into training and test images. Each size has as many halvings as
    a ceiling, so that the whole costs some ``n_points`` ceilings; see
    :func:`consistency_at_sizes` for the draws.

    Parameters
    ----------
    recordings
        Responses to the same images in the same order.
    settings
        The protocol. ``ceiling`` says what a source is; ``"none"`` counts as ``"holdout"``.
    over
        ``"units"`` or ``"stimuli"``.
    n_points
        Sizes, at least four: from the fewest that the mapping can use to all there are. An area with more
        source units than another has some more.
    sizes
        Sizes to measure at instead; those that cannot be are left out with a reason.
    n_jobs
        Worker processes; -1 = one per core. Results do not depend on it, to the last bit.
    progress
        Called with (done, total) target animals.

    Raises
    ------
    UsageError
        If ``over`` is unknown, there are too few points, or nothing to score.
    DataError, FitError
        As for a ceiling.
    """
    if over not in get_args(Over):
        raise unknown_name("extrapolation", over, get_args(Over))
    if n_points < N_SIZES_SATURATING:
        raise UsageError(f"n_points={n_points}: a curve needs at least {N_SIZES_SATURATING} sizes")
    if sizes is not None and (not sizes or min(sizes) < 1):
        raise UsageError(f"sizes={list(sizes)}: give numbers of {over}, at least one, all positive")
    ceiling = "holdout" if settings.ceiling == "none" else settings.ceiling
    settings = settings.model_copy(update={"ceiling": ceiling, "source_units": "all"})
    n_images = check_recordings(recordings, settings)
    targets = _targets(recordings, settings)
    areas = tuple(dict.fromkeys(recording.area for recording in recordings))
    if over == "units":
        plans = _unit_plans(areas, targets, settings, n_points, sizes)
    else:
        plans = _image_plans(areas, targets, n_images, settings, n_points, sizes)
    scores = _measured(targets, plans, over, settings, n_jobs=n_jobs, progress=progress)
    found = [_of_area(area, plans[area], targets, scores, settings) for area in areas]
    return Extrapolation(
        over=over,
        areas=(*found, _pooled(found)),
        settings=settings,
        responses_sha256=recordings_digest(recordings),
    )


@dataclass(frozen=True)
class _Plan:
    """Sizes to measure in an area, sizes that cannot be with the reason, and why there is nothing at all."""

    sizes: tuple[int, ...] = ()
    left_out: Mapping[int, str] = field(default_factory=dict)
    reason: str = ""


def _targets(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> list[Target]:
    """Pair every animal with its sources; one that is alone in its area is left out."""
    sources: dict[int, list[tuple[NDArray[np.floating], ...]]] = {}
    for pair in pairs_of(recordings, settings):
        animals = tuple(recordings[index].responses for index in pair.sources)
        sources.setdefault(pair.target, []).append(animals)
    per_unit = MAPPINGS[settings.mapping].per_unit
    return [
        Target(
            area=recordings[index].area,
            specimen=recordings[index].specimen,
            unit_ids=np.asarray(recordings[index].unit_ids if per_unit else [POPULATION], dtype=np.int64),
            responses=recordings[index].responses,
            sources=tuple(of_target),
        )
        for index, of_target in sources.items()
    ]


def _unit_plans(
    areas: Sequence[str],
    targets: Sequence[Target],
    settings: ScoreSettings,
    n_points: int,
    sizes: Sequence[int] | None,
) -> dict[str, _Plan]:
    available: dict[str, int] = {}
    for target in targets:
        for animals in target.sources:
            source = pooled_responses(animals)
            n_usable = predicting_units(source, trial_draws(target, source, settings).source).size
            available[target.area] = min(n_usable, available.get(target.area, n_usable))
    chosen = unit_sizes(available, settings, n_points)
    needed = fewest_units(settings)
    plans = {area: _Plan(reason=ALONE) for area in areas}
    for area, n_available in available.items():
        wanted = [int(size) for size in (chosen[area] if sizes is None else np.unique(sizes))]
        faults = {size: _unit_fault(size, n_available, needed, settings) for size in wanted}
        few = f"{n_available} source units for some animal; {settings.mapping} needs {needed}"
        plans[area] = _plan(faults, few)
    return plans


def _unit_fault(size: int, n_available: int, needed: int, settings: ScoreSettings) -> str:
    if size < needed:
        return f"{size} source units; {settings.mapping} needs {needed}"
    return f"only {n_available} source units for some animal" if size > n_available else ""


def _image_plans(
    areas: Sequence[str],
    targets: Sequence[Target],
    n_images: int,
    settings: ScoreSettings,
    n_points: int,
    sizes: Sequence[int] | None,
) -> dict[str, _Plan]:
    wanted = [
        int(size)
        for size in (image_sizes(n_images, settings, n_points) if sizes is None else np.unique(sizes))
    ]
    faults = {
        size: f"only {n_images} images" if size > n_images else image_fault(size, settings) for size in wanted
    }
    several = {target.area for target in targets}
    return {area: _plan(faults, "no size") if area in several else _Plan(reason=ALONE) for area in areas}


def _plan(faults: Mapping[int, str], nothing: str) -> _Plan:
    kept = tuple(size for size, fault in faults.items() if not fault)
    left_out = {size: fault for size, fault in faults.items() if fault}
    return _Plan(kept, left_out, "" if kept else "; ".join(left_out.values()) or nothing)


def _measured(
    targets: Sequence[Target],
    plans: Mapping[str, _Plan],
    over: Over,
    settings: ScoreSettings,
    *,
    n_jobs: int,
    progress: Progress | None,
) -> dict[int, NDArray[np.float64]]:
    """Score every target at the sizes of its area, the most work first; keys are positions."""
    order = [place for place, target in enumerate(targets) if plans[target.area].sizes]
    order.sort(key=lambda place: -sum(part.size for source in targets[place].sources for part in source))
    return by_place(
        consistency_at_sizes,
        order,
        lambda place: (targets[place], plans[targets[place].area].sizes, over, settings),
        n_jobs=n_jobs,
        warm_up=MAPPINGS[settings.mapping].warm_up,
        progress=progress,
    )


def _of_area(
    area: str,
    plan: _Plan,
    targets: Sequence[Target],
    scores: Mapping[int, NDArray[np.float64]],
    settings: ScoreSettings,
) -> AreaSizes:
    """Put the units of an area side by side."""
    members = [place for place in sorted(scores) if targets[place].area == area]
    if not members:
        return AreaSizes.nothing(area, plan.left_out, plan.reason)
    animals = [np.full(len(targets[place].unit_ids), targets[place].specimen) for place in members]
    return AreaSizes(
        area=area,
        sizes=np.array(plan.sizes, dtype=np.int64),
        scores=np.concatenate([scores[place] for place in members], axis=1),
        animals=np.concatenate(animals).astype(np.int64),
        unit_ids=np.concatenate([targets[place].unit_ids for place in members]),
        left_out=dict(plan.left_out),
        reason="",
    )


def _pooled(areas: Sequence[AreaSizes]) -> AreaSizes:
    """Pool the units of all areas at the sizes that all of them have."""
    present = [area for area in areas if area.sizes.size]
    if not present:
        return AreaSizes.nothing(ALL_AREAS, {}, "no area has a ceiling")
    sizes = reduce(np.intersect1d, [area.sizes for area in present])
    if not sizes.size:
        return AreaSizes.nothing(ALL_AREAS, {}, "no size that all areas have")
    return AreaSizes(
        area=ALL_AREAS,
        sizes=sizes,
        scores=np.concatenate([area.scores[np.isin(area.sizes, sizes)] for area in present], axis=1),
        animals=np.concatenate([area.animals for area in present]),
        unit_ids=np.concatenate([area.unit_ids for area in present]),
        left_out={},
        reason="",
    )


@dataclass(frozen=True)
class AreaSizes:
    """Consistency of the units of one area at several sizes.

    Attributes
    ----------
    area
        Visual area, or ``"all"``.
    sizes
        int64 (n_sizes,), ascending.
    scores
        float64 (n_sizes, n_units), NaN = no score.
    animals, unit_ids
        int64 (n_units,).
    left_out
        Sizes that could not be measured -> why.
    reason
        Why there is no size at all, or "".
    """

    area: str
    sizes: NDArray[np.int64]
    scores: NDArray[np.float64]
    animals: NDArray[np.int64]
    unit_ids: NDArray[np.int64]
    left_out: Mapping[int, str]
    reason: str

    @staticmethod
    def nothing(area: str, left_out: Mapping[int, str], reason: str) -> AreaSizes:
        """Return an area without any size."""
        empty = np.empty(0, dtype=np.int64)
        return AreaSizes(area, empty, np.empty((0, 0)), empty, empty, dict(left_out), reason)

    @cached_property
    def compared(self) -> NDArray[np.float64]:
        """Scores of the units that have one at every size at which any unit has; NaN elsewhere.

        Medians at different sizes are to be of the same units, or a curve would show the change of units.
        """
        missing = np.isnan(self.scores)
        nowhere = missing.all(axis=1, keepdims=True)
        lacking = (missing & ~nowhere).any(axis=0)
        return np.where(lacking | nowhere, np.nan, self.scores)


@dataclass(frozen=True)
class Extrapolation:
    """Ceilings at several sizes, per area and over all of them.

    Attributes
    ----------
    over
        What sizes count: source ``"units"``, or images (``"stimuli"``).
    areas
        One per area; the last one, ``"all"``, pools the units of all areas at the sizes that all have.
    settings
        The protocol; ``ceiling`` is ``"holdout"`` or ``"pairwise"``.
    responses_sha256
        Digest of the recordings.
    """

    over: Over
    areas: tuple[AreaSizes, ...]
    settings: ScoreSettings
    responses_sha256: str

    @property
    def skipped(self) -> dict[str, str]:
        """Areas without any size -> why."""
        return {area.area: area.reason for area in self.areas if area.reason}

    def table(self) -> pd.DataFrame:
        """Return one row per area and size.

        Columns: ``area``; ``size``; ``median`` over the units that have a score at every size; ``low``,
        ``high`` (interval of :func:`~mvkit.scoring.intervals.median_interval`); ``n_units``,
        ``n_animals``; ``n_nan`` units left out; ``reason`` why a number is missing, or "".
        """
        import pandas as pd

        columns = ("area", "size", "median", "low", "high", "n_units", "n_animals", "n_nan", "reason")
        rows = [row for area in self.areas for row in _rows(area, self.settings)]
        return pd.DataFrame(rows, columns=list(columns))

    @cached_property
    def fitted(self) -> dict[str, FittedArea]:
        """Area -> the two curves fitted to its medians, for the areas that have any."""
        return {
            area.area: fit_area(area.sizes, area.compared, area.animals, self.settings)
            for area in self.areas
            if not area.reason
        }

    def fits(self) -> pd.DataFrame:
        """Return one row per area and curve.

        Columns: ``area``; ``curve`` (``"saturating"`` or ``"log-linear"``, see
        :mod:`mvkit.scoring.extrapolation`); ``n_sizes``; ``asymptote`` with ``_se``, ``_low``
        and ``_high`` (saturating only); ``half`` and ``exponent``, or ``slope`` per unit of ln(size), with
        ``_se``; ``at_largest``, the curve's value at the largest ``size``; ``doubled`` with ``_low`` and
        ``_high``, its value at twice that; ``rmse`` of the medians; ``determined``: whether the data fix the
        asymptote, given that form of curve; ``n_units``, ``n_animals``; ``reason`` why not, or why there is
        no curve.

        Intervals are for other animals and units, not for other images or another form of curve: maps that
        change with the number of sources (ridge with a fixed penalty) may miss their limit by more.
        Standard errors are standard deviations of refits to hierarchical bootstrap resamples.
        """
        import pandas as pd

        rows = [
            {"area": area, **row} for area, fitted in self.fitted.items() for row in fitted.rows(self.over)
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """Return protocol, sizes, medians, curves and gaps as plain JSON values (NaN becomes None)."""
        return {
            "over": self.over,
            "ceiling": self.settings.ceiling,
            "settings": self.settings.model_dump(mode="json"),
            "responses_sha256": self.responses_sha256,
            "sizes": [plain(row) for row in self.table().to_dict(orient="records")],
            "fits": [plain(row) for row in self.fits().to_dict(orient="records")],
            "skipped": self.skipped,
        }


def _rows(area: AreaSizes, settings: ScoreSettings) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for size, values, compared in zip(area.sizes, area.scores, area.compared, strict=True):
        interval = median_interval(compared, area.animals, settings)
        valid = compared[~np.isnan(compared)]
        rows.append(
            {
                "area": area.area,
                "size": int(size),
                "median": float(np.median(valid)) if valid.size else math.nan,
                "low": interval.low,
                "high": interval.high,
                "n_units": interval.n_units,
                "n_animals": interval.n_animals,
                "n_nan": int(values.size - valid.size),
                "reason": interval.reason,
            }
        )
    gap = {"median": math.nan, "low": math.nan, "high": math.nan, "n_units": 0, "n_animals": 0, "n_nan": 0}
    rows += [{"area": area.area, "size": size, **gap, "reason": why} for size, why in area.left_out.items()]
    return sorted(rows, key=lambda row: int(str(row["size"])))


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


#: Source units that a mapping needs at least; with one or two units correlations over units are always ±1.
_FEWEST = 3
_FEWEST_UNITS: dict[str, Callable[[ScoreSettings], int]] = {"pls": lambda settings: settings.n_components}
#: The smallest size is no less than this share of the largest.
_SMALLEST_SHARE = 1 / 32
#: Below so many test images correlations say little.
_FEWEST_TEST_IMAGES = 5


def unit_sizes(
    available: Mapping[str, int], settings: ScoreSettings, n_points: int
) -> dict[str, NDArray[np.int64]]:
    """Choose numbers of source units, evenly spaced in their logarithm.

    Parameters
    ----------
    available
        Area -> source units that every animal of the area can be predicted from.
    settings
        The mapping, which may need a number of source units.
    n_points
        Sizes that all areas share, so that their units can be pooled.

    Returns
    -------
    dict
        Area -> ascending int64 sizes: those shared, up to the most that the poorest area has, and more of
        them up to all units of the area. An area with too few source units has none.
    """
    fewest = fewest_units(settings)
    able = {area: n for area, n in available.items() if n >= fewest}
    if not able:
        return {area: np.empty(0, dtype=np.int64) for area in available}
    most = min(able.values())
    smallest = max(fewest, math.ceil(most * _SMALLEST_SHARE))
    shared = spaced(smallest, most, n_points)
    sizes = {}
    for area, n in available.items():
        if n < fewest:
            sizes[area] = np.empty(0, dtype=np.int64)
            continue
        whole = math.log(n / smallest) or 1.0
        n_more = math.ceil(n_points * math.log(n / most) / whole)
        sizes[area] = np.union1d(shared, spaced(most, n, n_more + 1))
    return sizes


def image_sizes(n_images: int, settings: ScoreSettings, n_points: int) -> NDArray[np.int64]:
    """Choose numbers of images, evenly spaced in their logarithm, from the fewest that serve to all."""
    enough = [
        n
        for n in range(2, n_images + 1)
        if not image_fault(n, settings) and _n_test(n, settings) >= _FEWEST_TEST_IMAGES
    ]
    smallest = max(enough[0] if enough else n_images, math.ceil(n_images * _SMALLEST_SHARE))
    return spaced(smallest, n_images, n_points)


def spaced(first: int, last: int, n: int) -> NDArray[np.int64]:
    """Return ``n`` whole numbers from first to last, evenly spaced in their logarithm; equal ones once."""
    return (
        np.unique(np.round(np.geomspace(first, last, max(n, 1))).astype(np.int64))
        if n > 1
        else np.array([last])
    )


def fewest_units(settings: ScoreSettings) -> int:
    """Return the fewest source units that the mapping can be fitted with."""
    needed = _FEWEST_UNITS.get(settings.mapping)
    return _FEWEST if needed is None else max(_FEWEST, needed(settings))


def image_fault(n_images: int, settings: ScoreSettings) -> str:
    """Say why so many images are too few to be scored, or ""."""
    if settings.compares_all_images:
        return "" if n_images >= _FEWEST else f"{n_images} images have no dissimilarities to compare"
    n_train = math.ceil(settings.train_fraction * n_images)
    n_needed = max(2, MAPPINGS[settings.mapping].n_train_needed(settings))
    if n_train < n_needed:
        return f"{n_train} training images of {n_images}; {settings.mapping} needs {n_needed}"
    if n_images - n_train < 2:
        return f"{n_images - n_train} test images of {n_images}; at least two are needed"
    return ""


def _n_test(n_images: int, settings: ScoreSettings) -> int:
    if settings.compares_all_images:
        return n_images
    return n_images - math.ceil(settings.train_fraction * n_images)


Over = Literal["units", "stimuli"]


@dataclass(frozen=True)
class Target:
    """An animal and the populations that it is predicted from.

    Attributes
    ----------
    area, specimen
        Where the units lie.
    unit_ids
        int64 (n_units,).
    responses
        (n_trials, n_images, n_units), NaN = missing.
    sources
        Per source the responses of its animals: all others, or one of them. They are pooled only when needed,
        or every target would hold a copy of its whole area.
    """

    area: str
    specimen: int
    unit_ids: NDArray[np.int64]
    responses: NDArray[np.floating]
    sources: tuple[tuple[NDArray[np.floating], ...], ...]


def consistency_at_sizes(
    target: Target, sizes: Sequence[int], over: Over, settings: ScoreSettings
) -> NDArray[np.float64]:
    """Score one animal at every size, each with as many halvings as a ceiling has.

    Every halving draws source units of its own, number ``b`` the first ones of
    ``RandomState([halves_seed, size, b]).permutation``. Images have to be split anew for each draw: there the
    halvings are divided among ``n_subsamples`` draws, ``RandomState([split_seed, size, draw])``. So each size
    costs no more than one ceiling. Trials are halved as for the ceiling; a size that is all units or all
    images gives the ceiling itself.

    Parameters
    ----------
    target
        The animal and its sources.
    sizes
        Source units, or images.
    over
        Which of them.
    settings
        The protocol.

    Returns
    -------
    ndarray
        float64 (n_sizes, n_units), NaN = no score.
    """
    at_size = _with_units if over == "units" else _with_images
    scores = []
    pools = [pooled_responses(source) for source in target.sources]
    with threadpool_limits(limits=1):
        for size in sizes:
            found = [at_size(target, pool, size, settings) for pool in pools]
            # Halvings with several sources count alike, as in the ceiling.
            scores.append(estimate(joined_halvings(found), settings))
    return np.stack(scores)


def trial_draws(target: Target, source: NDArray[np.floating], settings: ScoreSettings) -> PairDraws:
    """Draw the halvings of a pair with all source units."""
    n_trials, n_images, _ = target.responses.shape
    size = PairSize(n_trials, source.shape[0], n_images, source.shape[2], n_kept=source.shape[2])
    return draw_pair(size, settings)


def _with_units(
    target: Target, source: NDArray[np.floating], size: int, settings: ScoreSettings
) -> HalvingScores:
    draws = trial_draws(target, source, settings)
    splits = splits_of(target.responses.shape[1], settings)
    n_rows, n_source_units = draws.target.shape[0], source.shape[2]
    if size < n_source_units:
        orders = [_drawn((settings.halves_seed, size, row), n_source_units) for row in range(n_rows)]
        draws = replace(draws, units=np.stack(orders), n_kept=size)
    return score_pair(target.responses, source, draws, splits, settings).halvings


def _with_images(
    target: Target, source: NDArray[np.floating], size: int, settings: ScoreSettings
) -> HalvingScores:
    draws = trial_draws(target, source, settings)
    n_rows, n_images = draws.target.shape[0], target.responses.shape[1]
    n_draws = 1 if size >= n_images else min(settings.n_subsamples, n_rows)
    splits = splits_of(size, settings)
    found = []
    for draw, rows in enumerate(np.array_split(np.arange(n_rows), n_draws)):
        images = np.sort(_drawn((settings.split_seed, size, draw), n_images)[:size])
        part = PairDraws(
            _of_images(draws.target[rows], images), _of_images(draws.source[rows], images), None, draws.n_kept
        )
        pair = score_pair(target.responses[:, images], source[:, images], part, splits, settings)
        found.append(pair.halvings)
    return joined_halvings(found)


def _drawn(seeds: tuple[int, int, int], n: int) -> NDArray[np.int64]:
    return np.random.RandomState(list(seeds)).permutation(n).astype(np.int64)


def _of_images(weights: NDArray[np.generic], images: NDArray[np.int64]) -> NDArray[np.generic]:
    return weights[..., images] if weights.ndim == 4 else weights
