"""Ceilings: how well each animal is predicted from the other animals of its area.

The trials of both are halved, and scores are those of a model: see :func:`measure_ceiling`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.scoring.correlation import DROPPED_COLUMNS, ExclusionReason
from mvkit.scoring.maps import MAPPINGS, Map
from mvkit.scoring.parallel import run_jobs_by_index, single_threaded
from mvkit.scoring.protocol import (
    ImageSplit,
    SplitHalfScores,
    correct_split_halves,
    correlate_predictions,
    draw_split_half,
    half_means,
    note_missing,
    pool_responses,
    result_context,
    split_half_groups,
    splits_of,
    targets_of_split,
    unconverged_fits,
)
from mvkit.scoring.results import POPULATION, Column, Scores
from mvkit.scoring.run import Progress, UnitScores, check_recordings, unit_scores
from mvkit.scoring.settings import RecordingLike, ScoreSettings
from mvkit.scoring.similarity import Similarity

ALONE = "no other animal in this area"


@dataclass(frozen=True)
class AnimalPair:
    """A recording and what it is predicted from; numbers are indices of the recordings.

    Attributes
    ----------
    target
        The recording that is predicted.
    sources
        The recordings that predict it together, in ascending order of their animals.
    n_predictors
        Source units to predict from.
    """

    target: int
    sources: tuple[int, ...]
    n_predictors: int


def measure_ceiling(
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings,
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
    context: Mapping[str, object] | None = None,
) -> Scores:
    """Score each recording from the other animals of its area, as if they were a model.

    Splits, mapping and noise correction are those of :func:`~mvkit.scoring.run.score_features`; the trials of
    the source animals are halved too, and half h of the target is predicted from half h of the source
    (goldens sections 4 and 6). A source is, by
    ``settings.ceiling``, ``"holdout"``, all other animals' units together, or ``"pairwise"``, every other
    animal by itself. A unit's score is then the mean over sources, splits and split halves, each of them
    counting equally.

    With ``settings.source_units == "equal"`` all sources of an area predict from as many units: those of the
    smallest source. A source that has more is sub-sampled ``n_subsamples`` times per pair of halves, among
    the units that have a mean response to every image in every half.

    Parameters
    ----------
    recordings
        Responses to the same images in the same order.
    settings
        The protocol; ``ceiling`` must not be ``"none"``.
    n_jobs
        Worker processes; -1 = one per core. Results do not depend on it, to the last bit.
    progress
        Called with (done, total) pairs of target and source.
    context
        Dataset and the like, stored with the scores; versions of libraries are added to its "versions".

    Returns
    -------
    Scores
        One layer, named like ``settings.ceiling``. Besides the columns of a model's scores: ``n_sources``
        (int64), other animals that the score is from, and ``n_source_units`` (int64), units of theirs
        together that predictions were made from. Where a score is NaN because the area holds one animal, or
        no source can be mapped, ``detail`` says so; it also names sources that cannot be mapped.

    Raises
    ------
    UsageError
        If no ceiling is asked for, there are no recordings, or populations are pooled over animals.
    DataError
        If recordings do not go together.
    FitError
        If there are fewer training images than components.
    """
    if settings.ceiling == "none":
        raise UsageError("ceiling 'none' measures nothing; give 'holdout' or 'pairwise'")
    if settings.pools_animals:
        raise UsageError(
            "population 'pooled' leaves no animals to compare; for a ceiling give population 'animal'"
        )
    if settings.measure != "corrected":
        raise UsageError(
            f"measure '{settings.measure}' has no ceiling between animals; that is of measure 'corrected'"
        )
    n_images = check_recordings(recordings, settings)
    splits = splits_of(n_images, settings)
    pairs = pairs_of(recordings, settings)

    def cost(number: int) -> int:
        return len(recordings[pairs[number].target].unit_ids) + pairs[number].n_predictors

    def arguments(number: int) -> tuple[object, ...]:
        pair = pairs[number]
        sources = tuple(recordings[index].responses for index in pair.sources)
        return recordings[pair.target].responses, sources, pair.n_predictors, splits, settings

    scores = run_jobs_by_index(
        _score_job,
        sorted(range(len(pairs)), key=cost, reverse=True),
        arguments,
        n_jobs=n_jobs,
        warm_up=MAPPINGS[settings.mapping].warm_up,
        progress=progress,
    )
    by_target: dict[int, list[SourceScores]] = {}
    for number, pair in enumerate(pairs):
        animals = tuple(recordings[index].specimen for index in pair.sources)
        by_target.setdefault(pair.target, []).append(SourceScores(animals, scores[number]))
    rows = [
        aggregate_sources(recording, by_target.get(index, []), len(splits), settings)
        for index, recording in enumerate(recordings)
    ]
    return Scores(
        columns={name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns},
        by_fold=np.concatenate([row.by_fold for row in rows], axis=1),
        layers=(settings.ceiling,),
        areas=tuple(dict.fromkeys(recording.area for recording in recordings)),
        settings=settings,
        context=result_context(context, recordings),
    )


def pairs_of(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> list[AnimalPair]:
    """List which recording is predicted from which; a recording alone in its area is in no pair."""
    pairs: list[AnimalPair] = []
    for target, recording in enumerate(recordings):
        others = [
            index
            for index, other in enumerate(recordings)
            if other.area == recording.area and other.specimen != recording.specimen
        ]
        others.sort(key=lambda index: recordings[index].specimen)
        groups = [(other,) for other in others] if settings.ceiling == "pairwise" else [tuple(others)]
        pairs += [
            AnimalPair(target, sources, sum(len(recordings[index].unit_ids) for index in sources))
            for sources in groups
            if sources
        ]
    if settings.source_units == "all":
        return pairs
    fewest: dict[str, int] = {}
    for pair in pairs:
        area = recordings[pair.target].area
        fewest[area] = min(pair.n_predictors, fewest.get(area, pair.n_predictors))
    return [replace(pair, n_predictors=fewest[recordings[pair.target].area]) for pair in pairs]


def _score_job(
    target: NDArray[np.floating],
    sources: Sequence[NDArray[np.floating]],
    n_predictors: int,
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> PairScores:
    """Score one pair, always on one BLAS thread, so that every worker count gives the same bits."""
    source = pool_responses(sources)
    size = PairSize(target.shape[0], source.shape[0], target.shape[1], source.shape[2], n_predictors)
    with single_threaded():
        return score_pair(target, source, draw_pair(size, settings), splits, settings)


@dataclass(frozen=True)
class SourceScores:
    """Scores of a target from one source, and the animals of the source."""

    animals: tuple[int, ...]
    scores: PairScores


def aggregate_sources(
    target: RecordingLike, sources: Sequence[SourceScores], n_splits: int, settings: ScoreSettings
) -> UnitScores:
    """Average over all sources of a target, every image split and pair of halves counting equally.

    Sources that cannot be mapped at all take no part; ``detail`` names them.

    Returns
    -------
    UnitScores
        With all columns of a ceiling, see :func:`measure_ceiling`.
    """
    per_unit = MAPPINGS[settings.mapping].per_unit
    unit_ids = np.asarray(target.unit_ids if per_unit else [POPULATION], dtype=np.int64)
    used = [source for source in sources if not source.scores.reason]
    unused = [source for source in sources if source.scores.reason]
    without = "; ".join(
        f"source {', '.join(map(str, source.animals))}: {source.scores.reason}" for source in unused
    )
    n_rows = unit_ids.size
    if used:
        halves = concatenate_split_halves([source.scores.halves for source in used])
        measured = unit_scores(halves, "", settings)
    else:
        # One pair of halves that is NaN stands for none, of which there would be no mean; it is not counted.
        undefined = no_scores((n_splits, 1, n_rows), settings)
        measured = unit_scores(undefined, without or ALONE, settings)
    columns: dict[str, Column] = {
        "layer": np.full(n_rows, settings.ceiling, dtype=object),
        "area": np.full(n_rows, target.area, dtype=object),
        "specimen": np.full(n_rows, target.specimen, dtype=np.int64),
        "unit_id": unit_ids,
        **measured.columns,
        "n_sources": np.full(n_rows, sum(len(source.animals) for source in used), dtype=np.int64),
        "n_source_units": np.full(
            n_rows, sum(source.scores.n_source_units for source in used), dtype=np.int64
        ),
    }
    if not used:
        for column in ("halves_dropped", *DROPPED_COLUMNS.values()):
            columns[column] = np.zeros(n_rows, dtype=np.int64)
    elif without:
        columns["detail"] = np.array(
            ["; ".join(filter(None, (text, without))) for text in measured.columns["detail"]], dtype=object
        )
    return UnitScores(columns, measured.by_fold)


@dataclass(frozen=True)
class PairScores:
    """One target animal scored from one source.

    Attributes
    ----------
    split halves
        Every split and row of :class:`PairDraws`.
    n_source_units
        Source units that each prediction is made from.
    reason
        Why nothing can be predicted from this source, or "".
    """

    halves: SplitHalfScores
    n_source_units: int
    reason: str


def score_pair(
    target: NDArray[np.floating],
    source: NDArray[np.floating],
    draws: PairDraws,
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> PairScores:
    """Score one recording from the responses of other animals, which are as noisy as its own.

    The trials of both are halved. The prediction of half h is that of a map fitted on the training images
    from half h of the source to half h of the target; the score is then the same as for a model
    (goldens section 4).

    Source units without a valid trial for some image in some half take no part. Units that do not vary over
    the training images of a half take part but cannot contribute to any map.

    Parameters
    ----------
    target, source
        (n_trials, n_images, n_units) to the same images; NaN = missing. Numbers of trials may differ.
    draws
        The split halves of both, and the choice of source units.
    splits
        The image splits.
    settings
        Mapping and noise correction.
    """
    mapping = MAPPINGS[settings.mapping]
    usable = predicting_units(source, draws.source)
    if usable.size == 0:
        shape = (len(splits), draws.target.shape[0], target.shape[2] if mapping.per_unit else 1)
        return PairScores(no_scores(shape, settings), 0, "no source unit is known for every image")
    if usable.size < source.shape[2]:
        source = source[:, :, usable]
    draws = replace(draws, units=_choose_units(draws, usable))
    n_source_units = usable.size if draws.units is None else draws.units.shape[1]
    if isinstance(mapping, Similarity):
        halves = _compare_animals(mapping, target, source, draws, splits, settings)
        return PairScores(halves, n_source_units, "")
    halves, reason = _map_animals(mapping, target, source, draws, splits, settings)
    return PairScores(halves, n_source_units, reason)


def _choose_units(draws: PairDraws, usable: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the units to predict from in each row, as indices among the usable ones, in the order drawn."""
    if draws.units is None:
        return None
    position = np.full(draws.units.shape[1], -1, dtype=np.int64)
    position[usable] = np.arange(usable.size)
    ordered = position[draws.units]
    return np.stack([order[order >= 0][: draws.n_predictors] for order in ordered])


def _map_animals(
    mapping: Map[Any],
    target: NDArray[np.floating],
    source: NDArray[np.floating],
    draws: PairDraws,
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> tuple[SplitHalfScores, str]:
    """Fit a map per half of the trials and image split; also return why none could be fitted, or ""."""
    n_rows, n_units = draws.target.shape[0], target.shape[2]
    shape = (len(splits), n_rows, n_units)
    r_cross, r_map, r_target = (np.full(shape, np.nan) for _ in range(3))
    exclusions = np.zeros(shape, dtype=np.uint8)
    missing_image = np.full(n_units, -1, dtype=np.int64)
    reasons: list[str] = []
    for group in split_half_groups(n_rows, target.shape[1] * (source.shape[2] + (1 + len(splits)) * n_units)):
        source_means = half_means(source, draws.source[group])
        target_means = half_means(target, draws.target[group])
        note_missing(target_means, missing_image)
        targets = [targets_of_split(target_means, split, settings) for split in splits]
        n_fits = 2 * len(target_means)
        predictions = [np.full((n_fits, *part.second_test.shape[1:]), np.nan) for part in targets]
        fitted = np.zeros((len(splits), n_fits), dtype=np.bool_)
        for fit in range(n_fits):
            row, half = divmod(fit, 2)
            features = source_means[row, half]
            if draws.units is not None:
                features = features[:, draws.units[group][row]]
            prepared = mapping.prepare_source("source animals", features, splits, settings)
            reasons += [part.reason for part in prepared]
            for index, part in enumerate(prepared):
                if not part.reason:
                    fitted[index, fit] = True
                    train = targets[index].train[fit : fit + 1]
                    predictions[index][fit] = mapping.predict(train, part, settings)[0]
        for index, part in enumerate(targets):
            r_target[index, group] = part.r_target
            parts = correlate_predictions(predictions[index], part, settings)
            r_cross[index, group], r_map[index, group] = parts
            both = (fitted[index, 0::2] & fitted[index, 1::2])[:, None]
            unconverged = unconverged_fits(predictions[index], parts[1]) & both & (part.exclusions == 0)
            exclusions[index, group] = np.where(unconverged, ExclusionReason.NOT_CONVERGED, part.exclusions)
    halves = correct_split_halves((r_cross, r_map, r_target), exclusions, missing_image, settings)
    return halves, reasons[0] if all(reasons) else ""


def _compare_animals(
    similarity: Similarity,
    target: NDArray[np.floating],
    source: NDArray[np.floating],
    draws: PairDraws,
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> SplitHalfScores:
    """Compare the two populations in every pair of halves."""
    parts = []
    size = source.shape[1] * (2 * source.shape[2] + target.shape[2])
    for group in split_half_groups(draws.target.shape[0], size):
        source_means = half_means(source, draws.source[group])
        target_means = half_means(target, draws.target[group])
        if draws.units is not None:
            source_means = np.take_along_axis(source_means, draws.units[group, None, None, :], axis=3)
        parts.append(similarity.between(source_means, target_means, splits, settings))
    return concatenate_split_halves(parts)


def no_scores(shape: tuple[int, ...], settings: ScoreSettings) -> SplitHalfScores:
    """Scores that are all NaN; ``shape`` is (n_splits, n_halves, n_units)."""
    gap = np.full(shape, np.nan)
    exclusions, missing_image = np.zeros(shape, dtype=np.uint8), np.full(shape[2], -1)
    return correct_split_halves((gap, gap, gap), exclusions, missing_image, settings)


def concatenate_split_halves(parts: Sequence[SplitHalfScores]) -> SplitHalfScores:
    """Concatenate the split halves of the same units."""
    missing = np.stack([part.missing_image for part in parts])
    first = np.where(missing < 0, np.iinfo(np.int64).max, missing).min(axis=0)
    r_cross, r_map, r_target, scores = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("r_cross", "r_map", "r_target", "scores")
    )
    exclusions = np.concatenate([part.exclusions for part in parts], axis=1)
    missing_image = np.where(missing.max(axis=0) < 0, -1, first)
    return SplitHalfScores(r_cross, r_map, r_target, scores, exclusions, missing_image)


def predicting_units(responses: NDArray[np.floating], weights: NDArray[np.generic]) -> NDArray[np.int64]:
    """Find the source units to predict from: those with a response to every image in every half.

    One rule for all fits of a pair keeps its predictions comparable with one another.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    weights
        (n_halves, 2, n_trials[, n_images]) as for :func:`~mvkit.scoring.protocol.half_means`.

    Returns
    -------
    ndarray
        int64 indices of these units, ascending.
    """
    patterns, of_unit = _missing_patterns(responses)
    complete = np.ones(patterns.shape[2], dtype=np.bool_)
    for group in split_half_groups(weights.shape[0], patterns[0].size):
        complete &= ~np.isnan(half_means(patterns, weights[group])).any(axis=(0, 1, 2))
    return np.flatnonzero(complete[of_unit]).astype(np.int64)


def _missing_patterns(responses: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct patterns of missing responses (NaN, else 0), and which of them each unit has.

    The units of an animal mostly share theirs: a missing presentation is missing for all of them.
    """
    indices: dict[bytes, int] = {}
    patterns: list[NDArray[np.float64]] = []
    of_unit = np.empty(responses.shape[2], dtype=np.int64)
    for unit, missing in enumerate(np.isnan(responses).transpose(2, 0, 1)):
        key = np.packbits(missing).tobytes()
        if key not in indices:
            indices[key] = len(patterns)
            patterns.append(np.where(missing, np.nan, 0.0))
        of_unit[unit] = indices[key]
    return np.stack(patterns, axis=2), of_unit


@dataclass(frozen=True)
class PairDraws:
    """Random draws for a target and a source: a row per pair of halves (and sub-sample of source units).

    Attributes
    ----------
    target, source
        (n_rows, 2, n_trials of each[, n_images]): how often each trial counts in each set, see
        :func:`~mvkit.scoring.protocol.half_means`.
    units
        int64 (n_rows, n_source_units): order of the source units, of which the first ``n_predictors`` that
        can be used predict; None = all of them predict.
    n_predictors
        Source units to predict from.
    """

    target: NDArray[np.generic]
    source: NDArray[np.generic]
    units: NDArray[np.int64] | None
    n_predictors: int


@dataclass(frozen=True)
class PairSize:
    """Trials of target and source, images, units of the source, and how many of these predict."""

    n_target_trials: int
    n_source_trials: int
    n_images: int
    n_source_units: int
    n_predictors: int


def draw_pair(size: PairSize, settings: ScoreSettings) -> PairDraws:
    """Draw the split halves of a pair of animals, and which source units predict.

    Row ``b`` comes from one ``RandomState(halves_seed + b)``: first the trials of the target, which are
    therefore those of a model's score, then the trials of the source. If fewer source units than there are
    shall predict, each generator yields several rows: with at least as many split halves as sub-samples, one
    generator per pair of halves makes ``n_subsamples`` rows, drawing units, target trials and source trials
    for each; otherwise one generator per sub-sample draws units once, and then ``n_halves`` times the trials
    of both (goldens sections 4 and 6).
    """
    n_images = None if settings.synchronous else size.n_images
    units: list[NDArray[np.int64]] = []
    target: list[NDArray[np.int32]] = []
    source: list[NDArray[np.int32]] = []

    def draw_units(generator: np.random.RandomState) -> NDArray[np.int64]:
        order = np.arange(size.n_source_units, dtype=np.int64)
        generator.shuffle(order)
        return order

    def draw_trials(generator: np.random.RandomState) -> None:
        for weights, n_trials in ((target, size.n_target_trials), (source, size.n_source_trials)):
            weights.append(draw_split_half(generator, n_trials, settings.halving, n_images=n_images))

    subsampled = size.n_predictors < size.n_source_units
    if subsampled and settings.n_subsamples > settings.n_halves:
        for subsample in range(settings.n_subsamples):
            generator = np.random.RandomState(settings.halves_seed + subsample)
            units += settings.n_halves * [draw_units(generator)]
            for _ in range(settings.n_halves):
                draw_trials(generator)
    else:
        for draw in range(settings.n_halves):
            generator = np.random.RandomState(settings.halves_seed + draw)
            for _ in range(settings.n_subsamples if subsampled else 1):
                if subsampled:
                    units.append(draw_units(generator))
                draw_trials(generator)
    return PairDraws(
        target=np.stack(target),
        source=np.stack(source),
        units=np.stack(units) if units else None,
        n_predictors=min(size.n_predictors, size.n_source_units),
    )
