"""Ceilings as a function of the number of source units, or of images, and curves that continue them.

- *saturating*: ``asymptote * (n / (n + half)) ** exponent``, exponent from 1/4 to 4. A unit that shares one
  signal with n noisy ones is predicted with a squared correlation of ``a^2 n / (n + h)`` at best (the Bayes
  estimate of a Gaussian signal, textbook arithmetic): exponent 1/2. Signals of many dimensions and of unequal
  variance flatten the curve, maps of few components steepen it; hence the range.
- *log-linear*: ``value + slope * ln(n / largest)``, which has no asymptote.

Neither is a law. Where the sizes end far below the asymptote, its position depends on the form of the curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError, unknown_name
from mvkit.files import plain
from mvkit.scoring.ceilings import (
    ALONE,
    PairDraws,
    PairSize,
    concatenate_split_halves,
    draw_pair,
    pairs_of,
    predicting_units,
    score_pair,
)
from mvkit.scoring.intervals import (
    NO_UNITS,
    Statistic,
    median_interval,
    resampled_column_medians,
    statistic_interval,
)
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.parallel import run_jobs_by_index, single_threaded
from mvkit.scoring.protocol import SplitHalfScores, pool_responses, recordings_digest, splits_of
from mvkit.scoring.results import ALL_AREAS, POPULATION
from mvkit.scoring.run import Progress, check_recordings, estimate
from mvkit.scoring.settings import RecordingLike, ScoreSettings

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Over = Literal["units", "stimuli"]
Grid = Literal["log", "linear"]
#: (n_trials, n_images, n_units), NaN = missing.
Responses = NDArray[np.floating]
#: The animals that predict together.
Source = tuple[Responses, ...]
Curves = TypeVar("Curves", bound="SaturatingCurves | LogLinearCurves")

LOWEST_EXPONENT, HIGHEST_EXPONENT = 0.25, 4.0
#: ``half`` lies between a hundredth of the smallest size (a flat curve) and a hundred times the largest (a
#: power law).
HALF_RANGE = 100.0
#: Sizes that a curve needs: one more than it has parameters.
N_SIZES_SATURATING, N_SIZES_LOG_LINEAR = 4, 3
#: An asymptote whose interval is wider than this (in units of correlation) is not determined by the data.
WIDEST = 0.2
#: Nor is one of a curve that lies further than this outside the interval of a median.
MISFIT = 0.01

# Start points of a fit, how near to a bound one may lie, and where it stops (scipy's ftol, xtol and gtol).
_N_HALVES, _N_EXPONENTS = 49, 9
_INSIDE = 0.98
_TOLERANCE = 1e-14
_N_EVALUATIONS = 500
# Step of the medians for derivatives of a fitted value.
_STEP = 1e-4
# Columns of a bounded value.
_ENDS = {"": "value", "_se": "se", "_low": "low", "_high": "high"}
#: Linear grids of the 2020 code: shares of the source units, and the step between numbers of images.
LINEAR_FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
LINEAR_STEP = 20

# With one or two units correlations over units are always 1 or -1; two images have one dissimilarity.
_FEWEST = 3
# The smallest size is no less than this share of the largest.
_SMALLEST_SHARE = 1 / 32
# Correlations over fewer test images are mostly noise.
_FEWEST_TEST_IMAGES = 5


def extrapolate_ceiling(
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings,
    over: Over,
    *,
    grid: Grid = "log",
    n_points: int = 6,
    sizes: Sequence[int] | None = None,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> Extrapolation:
    """Measure the consistency between animals with fewer source units or images, and fit curves to it.

    The paper extrapolates its ceilings with the numbers of units and of stimuli (supplementary figures S5 and
    S6, not checked against the paper's text); the curves fitted here are mvkit's own choice, see
    :mod:`mvkit.scoring.extrapolation`.

    *Units*: every pair of halves predicts from a random sub-sample of the source units of each size.
    *Stimuli*: random subsets of the images, split anew into training and test images. Each size has as many
    split halves as a ceiling, so that the whole costs some ``n_points`` ceilings; see
    :func:`consistency_at_sizes` for the draws.

    Parameters
    ----------
    recordings
        Responses to the same images in the same order.
    settings
        The protocol. ``ceiling`` is the kind of source; ``"none"`` counts as ``"holdout"``.
    over
        ``"units"`` or ``"stimuli"``.
    grid
        How sizes are spaced: evenly in their logarithm, or as in the 2020 code (:data:`LINEAR_FRACTIONS` of
        the units, every :data:`LINEAR_STEP` images and all of them).
    n_points
        Sizes of a ``"log"`` grid, at least four: from the fewest that the mapping can use to all there are.
        An area with more source units than another has some more.
    sizes
        Sizes to measure at instead; those that cannot be are left out with a reason.
    n_jobs
        Worker processes; -1 = one per core. Results do not depend on it, to the last bit.
    progress
        Called with (done, total) target animals.

    Returns
    -------
    Extrapolation
        Medians by size with intervals, the fitted curves and their asymptotes, by area.

    Raises
    ------
    UsageError
        If ``over`` or ``grid`` is unknown, there are too few points, or nothing to score.
    DataError, FitError
        As for a ceiling.
    """
    if over not in get_args(Over):
        raise unknown_name("extrapolation", over, get_args(Over))
    if grid not in get_args(Grid):
        raise unknown_name("grid", grid, get_args(Grid))
    if n_points < N_SIZES_SATURATING:
        raise UsageError(f"n_points={n_points}: a curve needs at least {N_SIZES_SATURATING} sizes")
    if sizes is not None and (not sizes or min(sizes) < 1):
        raise UsageError(f"sizes={list(sizes)}: give numbers of {over}, at least one, all positive")
    ceiling = "holdout" if settings.ceiling == "none" else settings.ceiling
    settings = settings.model_copy(update={"ceiling": ceiling, "source_units": "all"})
    n_images = check_recordings(recordings, settings)
    # Index of every recording that is not alone in its area -> the animals that predict it.
    sources: dict[int, list[Source]] = {}
    for pair in pairs_of(recordings, settings):
        animals = tuple(recordings[index].responses for index in pair.sources)
        sources.setdefault(pair.target, []).append(animals)
    points = n_points if grid == "log" else None
    if over == "units":
        plans = _plan_units(recordings, sources, settings, points, sizes)
    else:
        with_sources = {recordings[index].area for index in sources}
        plans = _plan_images(with_sources, n_images, settings, points, sizes)
    areas = tuple(dict.fromkeys(recording.area for recording in recordings))
    plans = {area: plans.get(area) or AreaSizes.nothing(area, {}, ALONE) for area in areas}

    def arguments(index: int) -> tuple[object, ...]:
        area_sizes = plans[recordings[index].area].sizes.tolist()
        return recordings[index].responses, sources[index], area_sizes, over, settings

    # The most work first.
    order = [index for index in sources if plans[recordings[index].area].sizes.size]
    order.sort(key=lambda index: -sum(part.size for source in sources[index] for part in source))
    scores = run_jobs_by_index(
        consistency_at_sizes,
        order,
        arguments,
        n_jobs=n_jobs,
        warm_up=MAPPINGS[settings.mapping].warm_up,
        progress=progress,
    )
    measured = [_collect_area(plan, recordings, scores, settings) for plan in plans.values()]
    return Extrapolation(
        over=over,
        areas=(*measured, _all_areas(measured)),
        settings=settings,
        responses_sha256=recordings_digest(recordings),
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
    scores: Array
    animals: NDArray[np.int64]
    unit_ids: NDArray[np.int64]
    left_out: Mapping[int, str]
    reason: str

    @staticmethod
    def nothing(area: str, left_out: Mapping[int, str], reason: str) -> AreaSizes:
        """Return an area without any size."""
        empty = np.empty(0, dtype=np.int64)
        return AreaSizes(area, empty, np.empty((0, 0)), empty, empty, dict(left_out), reason)

    @staticmethod
    def planned(area: str, faults: Mapping[int, str], reason: str) -> AreaSizes:
        """Return an area without scores yet, from size -> why it cannot be measured, or ""."""
        left_out = {size: fault for size, fault in faults.items() if fault}
        sizes = np.array([size for size, fault in faults.items() if not fault], dtype=np.int64)
        why = "" if sizes.size else "; ".join(left_out.values()) or reason
        return replace(AreaSizes.nothing(area, left_out, why), sizes=sizes)

    @cached_property
    def compared(self) -> Array:
        """Scores of the units that have one at every size at which any unit has; else NaN.

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
        ``high`` (interval of :func:`~mvkit.scoring.intervals.median_interval`); ``n_units``, ``n_animals``;
        ``n_nan`` units left out; ``reason`` why a number is missing, or "".
        """
        import pandas as pd

        columns = ("area", "size", "median", "low", "high", "n_units", "n_animals", "n_nan", "reason")
        rows = [row for area in self.areas for row in _size_rows(area, self.settings)]
        return pd.DataFrame(rows, columns=list(columns))

    @cached_property
    def fitted(self) -> dict[str, FittedArea]:
        """Area -> the two curves fitted to its medians, for the areas that have any."""
        return {
            area.area: fit_area(area.sizes, area.compared, area.animals, self.settings, self.over)
            for area in self.areas
            if not area.reason
        }

    def fits(self) -> pd.DataFrame:
        """Return one row per area and curve.

        Columns: ``area``; ``curve`` (``"saturating"`` or ``"log-linear"``, see
        :mod:`mvkit.scoring.extrapolation`); ``n_sizes``; ``asymptote`` with ``_se``, ``_low`` and ``_high``
        (saturating only); ``half`` and ``exponent``, or ``slope`` per unit of ln(size), with ``_se``;
        ``at_largest``, the curve's value at the largest ``size``; ``doubled`` with ``_low`` and ``_high``,
        its value at twice that; ``rmse`` of the medians; ``determined``: whether the data fix the asymptote,
        given that form of curve; ``n_units``, ``n_animals``; ``reason`` why not, or why there is no curve.

        Intervals are for other animals and units, not for other images or another form of curve: maps that
        change with the number of sources (ridge with a fixed penalty) may miss their limit by more.
        Standard errors are standard deviations of refits to hierarchical bootstrap resamples.
        """
        import pandas as pd

        return pd.DataFrame(
            [{"area": area, **row} for area, fitted in self.fitted.items() for row in fitted.rows]
        )

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


def _size_rows(area: AreaSizes, settings: ScoreSettings) -> list[dict[str, object]]:
    gap = {"median": math.nan, "low": math.nan, "high": math.nan, "n_units": 0, "n_animals": 0, "n_nan": 0}
    rows = {
        size: {"area": area.area, "size": size, **gap, "reason": why} for size, why in area.left_out.items()
    }
    for size, compared in zip(area.sizes.tolist(), area.compared, strict=True):
        interval = median_interval(compared, area.animals, settings)
        valid = compared[~np.isnan(compared)]
        median = float(np.median(valid)) if valid.size else math.nan
        n_nan = int(compared.size - valid.size)
        rows[size] = {"area": area.area, "size": size, "median": median, **vars(interval), "n_nan": n_nan}
    return [rows[size] for size in sorted(rows)]


def _plan_units(
    recordings: Sequence[RecordingLike],
    sources: Mapping[int, Sequence[Source]],
    settings: ScoreSettings,
    n_points: int | None,
    sizes: Sequence[int] | None,
) -> dict[str, AreaSizes]:
    available: dict[str, int] = {}
    for index, of_target in sources.items():
        target = recordings[index]
        for animals in of_target:
            source = pool_responses(animals)
            n_usable = predicting_units(source, trial_draws(target.responses, source, settings).source).size
            available[target.area] = min(n_usable, available.get(target.area, n_usable))
    chosen = linear_unit_sizes(available) if n_points is None else unit_sizes(available, settings, n_points)
    needed = fewest_units(settings)
    plans = {}
    for area, n_available in available.items():
        faults = {}
        for size in (chosen[area] if sizes is None else np.unique(sizes)).tolist():
            faults[size] = f"only {n_available} source units for some animal" if size > n_available else ""
            if size < needed:
                faults[size] = f"{size} source units; {settings.mapping} needs {needed}"
        few = f"{n_available} source units for some animal; {settings.mapping} needs {needed}"
        plans[area] = AreaSizes.planned(area, faults, few)
    return plans


def _plan_images(
    areas: Iterable[str],
    n_images: int,
    settings: ScoreSettings,
    n_points: int | None,
    sizes: Sequence[int] | None,
) -> dict[str, AreaSizes]:
    if sizes is not None:
        requested = np.unique(sizes).tolist()
    elif n_points is None:
        requested = [*range(LINEAR_STEP, n_images, LINEAR_STEP), n_images]
    else:
        requested = image_sizes(n_images, settings, n_points).tolist()
    faults = {
        size: f"only {n_images} images" if size > n_images else image_fault(size, settings)
        for size in requested
    }
    return {area: AreaSizes.planned(area, faults, "no size") for area in areas}


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
    sizes = {area: np.empty(0, dtype=np.int64) for area in available}
    able = {area: n for area, n in available.items() if n >= fewest}
    most = min(able.values(), default=0)
    smallest = max(fewest, math.ceil(most * _SMALLEST_SHARE))
    for area, n in able.items():
        n_more = math.ceil(n_points * math.log(n / most) / (math.log(n / smallest) or 1.0))
        sizes[area] = np.union1d(log_spaced(smallest, most, n_points), log_spaced(most, n, n_more + 1))
    return sizes


def linear_unit_sizes(available: Mapping[str, int]) -> dict[str, NDArray[np.int64]]:
    """Return :data:`LINEAR_FRACTIONS` of the source units of each area, rounded."""
    return {
        area: np.unique(np.round(np.multiply(LINEAR_FRACTIONS, n)).astype(np.int64))
        for area, n in available.items()
    }


def image_sizes(n_images: int, settings: ScoreSettings, n_points: int) -> NDArray[np.int64]:
    """Choose numbers of images, evenly spaced in their logarithm, from the fewest that serve to all."""

    def n_test(n: int) -> int:
        return n if settings.compares_all_images else n - math.ceil(settings.train_fraction * n)

    enough = (
        n for n in range(2, n_images + 1) if not image_fault(n, settings) and n_test(n) >= _FEWEST_TEST_IMAGES
    )
    smallest = max(next(enough, n_images), math.ceil(n_images * _SMALLEST_SHARE))
    return log_spaced(smallest, n_images, n_points)


def log_spaced(first: int, last: int, n: int) -> NDArray[np.int64]:
    """Return ``n`` whole numbers from first to last, evenly spaced in their logarithm; equal ones once."""
    if n <= 1:
        return np.array([last])
    return np.unique(np.round(np.geomspace(first, last, n)).astype(np.int64))


def fewest_units(settings: ScoreSettings) -> int:
    """Return the fewest source units that the mapping can be fitted with."""
    return max(_FEWEST, MAPPINGS[settings.mapping].n_features_needed(settings))


def image_fault(n_images: int, settings: ScoreSettings) -> str:
    """Return why so many images are too few to be scored, or ""."""
    if settings.compares_all_images:
        return "" if n_images >= _FEWEST else f"{n_images} images have no dissimilarities to compare"
    n_train = math.ceil(settings.train_fraction * n_images)
    n_needed = max(2, MAPPINGS[settings.mapping].n_train_needed(settings))
    if n_train < n_needed:
        return f"{n_train} training images of {n_images}; {settings.mapping} needs {n_needed}"
    if n_images - n_train < 2:
        return f"{n_images - n_train} test images of {n_images}; at least two are needed"
    return ""


def consistency_at_sizes(
    target: Responses, sources: Sequence[Source], sizes: Sequence[int], over: Over, settings: ScoreSettings
) -> Array:
    """Score one animal at every size, each with as many split halves as a ceiling has.

    Every pair of halves draws source units of its own, number ``b`` the first ones of
    ``RandomState([halves_seed, size, b]).permutation``. Images have to be split anew for each draw: there the
    split halves are divided among ``n_subsamples`` draws, ``RandomState([split_seed, size, draw])``. So each
    size costs no more than one ceiling. Trials are halved as for the ceiling; a size that is all units or all
    images gives the ceiling itself.

    Parameters
    ----------
    target
        (n_trials, n_images, n_units), NaN = missing.
    sources
        Per source the responses of its animals: all others, or one of them. They are pooled only here, or
        every target would hold a copy of its whole area.
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
    at_size = _score_with_units if over == "units" else _score_with_images
    pools = [pool_responses(source) for source in sources]
    with single_threaded():
        # Split halves with several sources count alike, as in the ceiling.
        scores = [
            estimate(
                concatenate_split_halves([at_size(target, pool, size, settings) for pool in pools]), settings
            )
            for size in sizes
        ]
    return np.stack(scores)


def trial_draws(target: Responses, source: Responses, settings: ScoreSettings) -> PairDraws:
    """Draw the split halves of a pair with all source units."""
    n_trials, n_images, _ = target.shape
    size = PairSize(n_trials, source.shape[0], n_images, source.shape[2], n_predictors=source.shape[2])
    return draw_pair(size, settings)


def _score_with_units(
    target: Responses, source: Responses, size: int, settings: ScoreSettings
) -> SplitHalfScores:
    draws = trial_draws(target, source, settings)
    splits = splits_of(target.shape[1], settings)
    n_rows, n_source_units = draws.target.shape[0], source.shape[2]
    if size < n_source_units:
        orders = [_permutation((settings.halves_seed, size, row), n_source_units) for row in range(n_rows)]
        draws = replace(draws, units=np.stack(orders), n_predictors=size)
    return score_pair(target, source, draws, splits, settings).halves


def _score_with_images(
    target: Responses, source: Responses, size: int, settings: ScoreSettings
) -> SplitHalfScores:
    draws = trial_draws(target, source, settings)
    n_rows, n_images = draws.target.shape[0], target.shape[1]
    n_draws = 1 if size >= n_images else min(settings.n_subsamples, n_rows)
    splits = splits_of(size, settings)
    parts = []
    for draw, rows in enumerate(np.array_split(np.arange(n_rows), n_draws)):
        images = np.sort(_permutation((settings.split_seed, size, draw), n_images)[:size])
        of_target, of_source = (
            weights[..., images] if weights.ndim == 4 else weights
            for weights in (draws.target[rows], draws.source[rows])
        )
        part = PairDraws(of_target, of_source, None, draws.n_predictors)
        pair = score_pair(target[:, images], source[:, images], part, splits, settings)
        parts.append(pair.halves)
    return concatenate_split_halves(parts)


def _permutation(seeds: tuple[int, int, int], n: int) -> NDArray[np.int64]:
    return np.random.RandomState(list(seeds)).permutation(n).astype(np.int64)


def _collect_area(
    plan: AreaSizes,
    recordings: Sequence[RecordingLike],
    scores: Mapping[int, Array],
    settings: ScoreSettings,
) -> AreaSizes:
    """Put the units of an area side by side."""
    members = [index for index in sorted(scores) if recordings[index].area == plan.area]
    if not members:
        return plan
    per_unit = MAPPINGS[settings.mapping].per_unit
    ids = [
        np.asarray(recordings[index].unit_ids if per_unit else [POPULATION], np.int64) for index in members
    ]
    animals = np.array([recordings[index].specimen for index in members], dtype=np.int64)
    return replace(
        plan,
        scores=np.concatenate([scores[index] for index in members], axis=1),
        animals=np.repeat(animals, [part.size for part in ids]),
        unit_ids=np.concatenate(ids),
    )


def _all_areas(areas: Sequence[AreaSizes]) -> AreaSizes:
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

    scipy's ``least_squares`` starts from the best point of a grid of ``half`` and ``exponent`` (the asymptote
    follows from them). Both are bounded by a sine, as in MINUIT (``low + (high - low) (sin u + 1) / 2``), so
    that MINPACK can fit them: its method takes a fraction of the time of those with bounds, and an area
    has thousands of resamples.

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
    from scipy.optimize import least_squares

    given = _check_sizes(sizes, n_needed=N_SIZES_SATURATING)
    half_bounds = (float(given.min()) / HALF_RANGE, float(given.max()) * HALF_RANGE)
    low = np.array([np.log(half_bounds[0]), LOWEST_EXPONENT])
    high = np.array([np.log(half_bounds[1]), HIGHEST_EXPONENT])

    def bounded(angles: Array) -> Array:
        return np.asarray(low + (high - low) * (np.sin(angles) + 1.0) / 2.0)

    def parts(parameters: Array) -> tuple[Array, Array, float]:
        log_half, exponent = bounded(parameters[1:])
        share = given / (given + np.exp(log_half))
        return share, share**exponent, exponent

    def residuals(parameters: Array, observed: Array) -> Array:
        return np.asarray(parameters[0] * parts(parameters)[1] - observed)

    def derivatives(parameters: Array, observed: Array) -> Array:
        share, shape, exponent = parts(parameters)
        curve = parameters[0] * shape
        by_log_half, by_exponent = (high - low) * np.cos(parameters[1:]) / 2.0
        return np.stack(
            [shape, curve * exponent * (share - 1.0) * by_log_half, curve * np.log(share) * by_exponent],
            axis=1,
        )

    fitted = np.full((values.shape[0], 3), np.nan)
    valid = np.flatnonzero(~np.isnan(values).any(axis=1))
    for row, start in zip(valid, _best_of_grid(given, values[valid], low, high), strict=True):
        fitted[row] = start
        if start[0] > 0.0:  # else no curve above zero is better than none
            # On a bound itself nothing would move.
            angles = np.arcsin(np.clip(2.0 * (start[1:] - low) / (high - low) - 1.0, -_INSIDE, _INSIDE))
            fit = least_squares(
                residuals,
                np.array([start[0], *angles]),
                derivatives,
                method="lm",
                x_scale="jac",
                ftol=_TOLERANCE,
                xtol=_TOLERANCE,
                gtol=_TOLERANCE,
                max_nfev=_N_EVALUATIONS,
                args=(values[row],),
            )
            fitted[row] = max(float(fit.x[0]), 0.0), *bounded(fit.x[1:])
    return SaturatingCurves(fitted[:, 0], np.exp(fitted[:, 1]), fitted[:, 2], half_bounds)


def _best_of_grid(sizes: Array, values: Array, low: Array, high: Array) -> Array:
    """Return (n_sets, 3): asymptote, ln half, exponent of the grid point of least squares."""
    log_halves = np.linspace(low[0], high[0], _N_HALVES)
    exponents = np.geomspace(low[1], high[1], _N_EXPONENTS)
    log_half, exponent = (part.ravel() for part in np.meshgrid(log_halves, exponents))
    shapes = (sizes / (sizes + np.exp(log_half)[:, None])) ** exponent[:, None]
    norms = np.square(shapes).sum(axis=1)
    products = values @ shapes.T
    asymptotes = np.maximum(products / norms, 0.0)
    # The sum of squares without the part that is the same for all grid points.
    best = (asymptotes * (asymptotes * norms - 2.0 * products)).argmin(axis=1)
    return np.column_stack([asymptotes[np.arange(len(values)), best], log_half[best], exponent[best]])


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
    given = _check_sizes(sizes, n_needed=N_SIZES_LOG_LINEAR)
    logs = np.log(given / given.max())
    deviations = logs - logs.mean()
    slope = values @ deviations / (deviations @ deviations)
    return LogLinearCurves(values.mean(axis=1) - slope * logs.mean(), slope, float(given.max()))


def _check_sizes(sizes: NDArray[np.integer], *, n_needed: int) -> Array:
    given = np.asarray(sizes, dtype=np.float64)
    if given.ndim != 1 or np.unique(given).size != given.size or given.size < n_needed or (given <= 0).any():
        raise UsageError(
            f"a curve needs at least {n_needed} different positive sizes, got {given.ravel().tolist()}"
        )
    return given


@dataclass(frozen=True)
class Bounded:
    """A number, its standard error and its interval."""

    value: float = math.nan
    se: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class FittedArea:
    """The curves of one area.

    Attributes
    ----------
    saturating, log_linear
        Curves of the medians, or None where sizes are too few.
    missed
        Sizes at which the saturating curve misses the interval of the median.
    open_end
        Why the data do not determine the asymptote, or "".
    rows
        A row per curve, see :meth:`Extrapolation.fits`.
    """

    saturating: SaturatingCurves | None
    log_linear: LogLinearCurves | None
    missed: tuple[int, ...]
    open_end: str
    rows: tuple[dict[str, object], dict[str, object]]


def fit_area(
    sizes: NDArray[np.int64],
    scores: Array,
    animals: NDArray[np.int64],
    settings: ScoreSettings,
    over: Over = "units",
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
    over
        What sizes count.
    """
    measured = ~np.isnan(scores).all(axis=1) if scores.size else np.zeros(sizes.size, dtype=np.bool_)
    valid = ~np.isnan(scores[measured]).any(axis=0)
    medians = _Medians(sizes[measured], scores[measured][:, valid], animals[valid], settings)
    n_sizes = medians.sizes.size
    saturating: SaturatingCurves | None = None
    log_linear: LogLinearCurves | None = None
    of_saturating: dict[str, Bounded] = {}
    of_log_linear: dict[str, Bounded] = {}
    missed: tuple[int, ...] = ()
    open_end = f"{n_sizes} sizes with a score; a saturating curve needs {N_SIZES_SATURATING}"
    no_limit = f"{n_sizes} sizes with a score; a log-linear curve needs {N_SIZES_LOG_LINEAR}"
    if n_sizes >= N_SIZES_SATURATING:
        saturating, of_saturating = medians.fit(fit_saturating, ("asymptote", "half", "exponent", "doubled"))
        asymptote = of_saturating["asymptote"]
        # The curve itself is bounded there.
        of_saturating["asymptote"] = replace(asymptote, low=max(asymptote.low, 0.0))
        missed = medians.missed_by(saturating)
        open_end = _open_end(saturating, of_saturating["asymptote"], missed, medians.reason)
    if n_sizes >= N_SIZES_LOG_LINEAR:
        log_linear, of_log_linear = medians.fit(fit_log_linear, ("slope", "doubled"))
        no_limit = f"a log-linear curve has no asymptote: it predicts growth with every doubling of {over}"
    rows = (
        _curve_row("saturating", medians, saturating, of_saturating, open_end),
        _curve_row("log-linear", medians, log_linear, of_log_linear, no_limit),
    )
    return FittedArea(saturating, log_linear, missed, open_end, rows)


class _Medians:
    """Medians of the units of an area at every size, and their resamples."""

    def __init__(
        self, sizes: NDArray[np.int64], columns: Array, animals: NDArray[np.int64], settings: ScoreSettings
    ) -> None:
        self.sizes, self.columns, self.animals, self.settings = sizes, columns, animals, settings
        self.n_units = columns.shape[1] if sizes.size else 0
        self.n_animals = np.unique(animals).size if sizes.size else 0
        self.values: Array = np.median(columns, axis=1) if columns.size else np.empty(0)
        self.intervals = [median_interval(column, animals, settings) for column in columns]
        #: Why there are no intervals, or "".
        self.reason = self.intervals[-1].reason if self.intervals else NO_UNITS
        steps = _STEP * np.eye(sizes.size)
        # The medians, a step up and a step down from each for derivatives, and bootstrap resamples.
        self._sets = np.concatenate([self.values[None], self.values + steps, self.values - steps])
        if not self.reason:
            resampled = resampled_column_medians(
                columns, animals, n_resamples=settings.n_resamples, seed=settings.resampling_seed
            )
            self._sets = np.concatenate([self._sets, resampled.T])

    def fit(
        self, function: Callable[[NDArray[np.int64], Array], Curves], values: Sequence[str]
    ) -> tuple[Curves, dict[str, Bounded]]:
        """Fit curves; return that of the medians, and bounds of parameters and of ``"doubled"``.

        That is the value at twice the largest size.
        """
        twice = 2.0 * float(self.sizes[-1])
        curves = function(self.sizes, self._sets)
        # How much the smallest size matters shows how well the form of the curve fits.
        has_spare = self.sizes.size > N_SIZES_SATURATING
        shorter = function(self.sizes[1:], self.values[None, 1:]) if has_spare else None
        bounds = {}
        for name in values:
            value = self._bounded(curves.at(twice) if name == "doubled" else getattr(curves, name))
            if shorter is not None:
                other = float((shorter.at(twice) if name == "doubled" else getattr(shorter, name))[0])
                value = replace(value, low=min(value.low, other), high=max(value.high, other))
            bounds[name] = value
        return function(self.sizes, self.values[None]), bounds

    def _bounded(self, fitted: Array) -> Bounded:
        """Bound a value of the curves of all sets.

        Each end is the outer one of two intervals: percentiles of the refits, which respect bounds and
        skewness, and the interval of :func:`statistic_interval`, which allows for few animals. The
        second alone, being linear, would be too narrow where a fit jumps.
        """
        if self.reason:
            return Bounded(float(fitted[0]))
        centre, up, down, refits = np.split(fitted, np.cumsum([1, self.sizes.size, self.sizes.size]))
        slopes = (up - down) / (2.0 * _STEP)
        # Its resamples are those that the refits are of.
        statistic = Statistic(lambda medians: refits if medians.ndim == 2 else centre[0], lambda _: slopes)
        interval = statistic_interval(self.columns, self.animals, statistic, self.settings)
        tail = 0.5 * (1.0 - self.settings.confidence)
        low, high = np.quantile(refits, [tail, 1.0 - tail])
        return Bounded(
            value=float(centre[0]),
            se=float(refits.std(ddof=1)),
            low=min(float(low), interval.low),
            high=max(float(high), interval.high),
        )

    def missed_by(self, curve: SaturatingCurves) -> tuple[int, ...]:
        """Return the sizes at which a curve misses the interval of the median."""
        return tuple(
            size
            for size, interval in zip(self.sizes.tolist(), self.intervals, strict=True)
            if not interval.low - MISFIT <= float(curve.at(size)[0]) <= interval.high + MISFIT
            and not interval.reason
        )


def _open_end(curve: SaturatingCurves, asymptote: Bounded, missed: Sequence[int], reason: str) -> str:
    """Return why the data do not determine the asymptote, or ""."""
    if curve.still_rising[0]:
        return "asymptote not determined: the curve still rises like a power at the largest size"
    if reason:
        return f"asymptote without an interval: {reason}"
    if missed:
        sizes = ", ".join(str(size) for size in missed)
        return f"asymptote not determined: the curve misses the intervals of the medians at size {sizes}"
    width = asymptote.high - asymptote.low
    return "" if width <= WIDEST else f"asymptote not determined: its interval is {width:.2f} wide"


def _curve_row(
    name: str,
    medians: _Medians,
    curve: SaturatingCurves | LogLinearCurves | None,
    fitted: Mapping[str, Bounded],
    reason: str,
) -> dict[str, object]:
    row: dict[str, object] = {"curve": name, "n_sizes": int(medians.sizes.size)}
    asymptote, doubled = (fitted.get(part, Bounded()) for part in ("asymptote", "doubled"))
    row |= {f"asymptote{end}": getattr(asymptote, part) for end, part in _ENDS.items()}
    for part in ("half", "exponent", "slope"):
        row |= {part: fitted.get(part, Bounded()).value, f"{part}_se": fitted.get(part, Bounded()).se}
    values = np.full(medians.sizes.size, np.nan)
    if curve is not None:
        values = np.array([curve.at(size)[0] for size in medians.sizes.tolist()])
    return row | {
        "size": int(medians.sizes[-1]) if values.size else 0,
        "at_largest": float(values[-1]) if values.size else math.nan,
        "doubled": doubled.value,
        "doubled_low": doubled.low,
        "doubled_high": doubled.high,
        "rmse": float(np.sqrt(np.mean(np.square(values - medians.values)))) if values.size else math.nan,
        "n_units": medians.n_units,
        "n_animals": medians.n_animals,
        "determined": not reason,
        "reason": reason,
    }
