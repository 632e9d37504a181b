"""Ceilings: how well each animal is predicted from the other animals of its area.

The trials of both are halved, and scores are those of a model: see :func:`measure_ceiling`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.errors import UsageError
from mvkit.scoring.correlation import DROPPED_COLUMNS, Drop
from mvkit.scoring.maps import MAPPINGS, Map
from mvkit.scoring.parallel import run_jobs_by_index
from mvkit.scoring.protocol import (
    ImageSplit,
    SplitHalfScores,
    Targets,
    correct_split_halves,
    correlate_predictions,
    draw_split_half,
    half_means,
    note_missing,
    result_context,
    split_half_groups,
    splits_of,
    targets_of_split,
    without_prediction,
)
from mvkit.scoring.results import POPULATION, Column, Scores
from mvkit.scoring.run import Progress, UnitScores, check_recordings, unit_scores
from mvkit.scoring.settings import RecordingLike, ScoreSettings
from mvkit.scoring.similarity import Similarity

ALONE = "no other animal in this area"


@dataclass(frozen=True)
class Pair:
    """A recording and what it is predicted from; numbers are positions among the recordings.

    Attributes
    ----------
    target
        The recording that is predicted.
    sources
        The recordings that predict it together, in ascending order of their animals.
    n_kept
        Source units to predict from.
    """

    target: int
    sources: tuple[int, ...]
    n_kept: int


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
    (goldens sections 4 and 6). ``settings.ceiling`` says what a source
    is: ``"holdout"``, all other animals' units together, or ``"pairwise"``, every other animal by itself. A
    unit's score is then the mean over sources, splits and halvings, each of them counting equally.

    With ``settings.source_units == "equal"`` all sources of an area predict from as many units: those of the
    smallest source. A source that has more is sub-sampled ``n_subsamples`` times per halving, among the units
    that are known for every image in every half.

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
        Dataset and the like, kept with the scores; its "versions" are added to.

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
    n_images = check_recordings(recordings, settings)
    splits = splits_of(n_images, settings)
    pairs = pairs_of(recordings, settings)
    found = _score_pairs(recordings, pairs, splits, settings, n_jobs=n_jobs, progress=progress)
    by_target: dict[int, list[SourceScores]] = {}
    for place, pair in enumerate(pairs):
        animals = [recordings[index].specimen for index in pair.sources]
        by_target.setdefault(pair.target, []).append(SourceScores(tuple(animals), found[place]))
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


def pairs_of(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> list[Pair]:
    """List who is predicted from whom, target by target; a recording alone in its area is in no pair."""
    found: list[tuple[int, tuple[int, ...]]] = []
    for target, recording in enumerate(recordings):
        others = [
            index
            for index, other in enumerate(recordings)
            if other.area == recording.area and other.specimen != recording.specimen
        ]
        others.sort(key=lambda index: recordings[index].specimen)
        if settings.ceiling == "pairwise":
            found += [(target, (other,)) for other in others]
        elif others:
            found.append((target, tuple(others)))
    sizes = {pair: sum(len(recordings[index].unit_ids) for index in pair[1]) for pair in found}
    fewest: dict[str, int] = {}
    for pair, size in sizes.items():
        area = recordings[pair[0]].area
        fewest[area] = min(size, fewest.get(area, size))
    equal = settings.source_units == "equal"
    return [
        Pair(*pair, n_kept=fewest[recordings[pair[0]].area] if equal else size)
        for pair, size in sizes.items()
    ]


def _score_pairs(
    recordings: Sequence[RecordingLike],
    pairs: Sequence[Pair],
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
    *,
    n_jobs: int,
    progress: Progress | None,
) -> dict[int, PairScores]:
    """Score every pair, the most work first; the keys are positions in ``pairs``."""

    def cost(place: int) -> int:
        pair = pairs[place]
        n_source_units = sum(len(recordings[index].unit_ids) for index in pair.sources)
        return len(recordings[pair.target].unit_ids) + min(pair.n_kept, n_source_units)

    def arguments(place: int) -> tuple[object, ...]:
        pair = pairs[place]
        sources = tuple(recordings[index].responses for index in pair.sources)
        return recordings[pair.target].responses, sources, pair.n_kept, splits, settings

    order = sorted(range(len(pairs)), key=cost, reverse=True)
    warm_up = MAPPINGS[settings.mapping].warm_up
    return run_jobs_by_index(_score_job, order, arguments, n_jobs=n_jobs, warm_up=warm_up, progress=progress)


def _score_job(
    target: NDArray[np.floating],
    sources: Sequence[NDArray[np.floating]],
    n_kept: int,
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> PairScores:
    """Score one pair, always on one BLAS thread, so that every worker count gives the same bits."""
    source = pool_responses(sources)
    size = PairSize(target.shape[0], source.shape[0], target.shape[1], source.shape[2], n_kept)
    with threadpool_limits(limits=1):
        return score_pair(target, source, draw_pair(size, settings), splits, settings)


@dataclass(frozen=True)
class SourceScores:
    """What one source gives for a target: the source's animals, and the scores from them."""

    animals: tuple[int, ...]
    scores: PairScores


def aggregate_sources(
    target: RecordingLike, sources: Sequence[SourceScores], n_splits: int, settings: ScoreSettings
) -> UnitScores:
    """Condense all sources of a target to one row per unit, every split and halving of each counting equally.

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
    without = "; ".join(f"source {_names(source.animals)}: {source.scores.reason}" for source in unused)
    n_rows = unit_ids.size
    if used:
        halvings = concatenate_split_halves([source.scores.halvings for source in used])
        measured = unit_scores(halvings, "", settings)
    else:
        # One halving that is NaN stands for none, of which there would be no mean; it is not counted.
        nothing = no_scores((n_splits, 1, n_rows), settings)
        measured = unit_scores(nothing, without or ALONE, settings)
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


def _names(animals: Sequence[int]) -> str:
    return ", ".join(str(animal) for animal in animals)


@dataclass(frozen=True)
class PairScores:
    """One target animal scored from one source.

    Attributes
    ----------
    halvings
        Every split and row of :class:`PairDraws`.
    n_source_units
        Source units that each prediction is made from.
    reason
        Why nothing can be predicted from this source, or "".
    """

    halvings: SplitHalfScores
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
        The halvings of both, and the choice of source units.
    splits
        The image splits.
    settings
        Mapping and noise correction.
    """
    row = MAPPINGS[settings.mapping]
    usable = predicting_units(source, draws.source)
    if usable.size == 0:
        shape = (len(splits), draws.target.shape[0], target.shape[2] if row.per_unit else 1)
        return PairScores(no_scores(shape, settings), 0, "no source unit is known for every image")
    if usable.size < source.shape[2]:
        source = source[:, :, usable]
    work = _PairWork(target, source, draws, _choose_units(draws, usable), splits, settings)
    n_source_units = usable.size if work.chosen is None else work.chosen.shape[1]
    if isinstance(row, Similarity):
        return PairScores(_score_similarity(row, work), n_source_units, "")
    halvings, reason = _score_map(row, work)
    return PairScores(halvings, n_source_units, reason)


@dataclass(frozen=True)
class _PairWork:
    target: NDArray[np.floating]
    source: NDArray[np.floating]
    draws: PairDraws
    chosen: NDArray[np.int64] | None
    splits: Sequence[ImageSplit]
    settings: ScoreSettings

    def means(self, group: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean responses of source and target, float64 (n_halves, 2, n_images, n_units)."""
        return (
            half_means(self.source, self.draws.source[group]),
            half_means(self.target, self.draws.target[group]),
        )


def _choose_units(draws: PairDraws, usable: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Positions among the usable units of those drawn in each row, in the order drawn."""
    if draws.units is None:
        return None
    position = np.full(draws.units.shape[1], -1, dtype=np.int64)
    position[usable] = np.arange(usable.size)
    ordered = position[draws.units]
    return np.stack([order[order >= 0][: draws.n_kept] for order in ordered])


def no_scores(shape: tuple[int, ...], settings: ScoreSettings) -> SplitHalfScores:
    """Scores that are all NaN; ``shape`` is (n_splits, n_halves, n_units)."""
    gap = np.full(shape, np.nan)
    return correct_split_halves(
        (gap, gap, gap), np.zeros(shape, dtype=np.uint8), np.full(shape[2], -1), settings
    )


def _score_map(row: Map[Any, Any], work: _PairWork) -> tuple[SplitHalfScores, str]:
    """Fit a map per half, halving and split; also return why not one could be fitted, or ""."""
    n_rows, n_units = work.draws.target.shape[0], work.target.shape[2]
    shape = (len(work.splits), n_rows, n_units)
    r_cross, r_map, r_target = (np.full(shape, np.nan) for _ in range(3))
    drops = np.zeros(shape, dtype=np.uint8)
    missing_image = np.full(n_units, -1, dtype=np.int64)
    reasons: list[str] = []
    size = work.target.shape[1] * (work.source.shape[2] + (1 + len(work.splits)) * n_units)
    for group in split_half_groups(n_rows, size):
        source_means, target_means = work.means(group)
        note_missing(target_means, missing_image)
        targets = [targets_of_split(target_means, split, work.settings) for split in work.splits]
        chosen = None if work.chosen is None else work.chosen[group]
        predictions = [
            np.full((of_split.train.shape[0], *of_split.second_test.shape[1:]), np.nan)
            for of_split in targets
        ]
        failed = [
            _predict(row, features, targets, fit, predictions, work)
            for fit, features in enumerate(source_features(source_means, chosen))
        ]
        reasons += [reason for of_fit in failed for reason in of_fit]
        for index, of_split in enumerate(targets):
            r_target[index, group] = of_split.r_target
            parts = correlate_predictions(predictions[index], of_split, work.settings)
            r_cross[index, group], r_map[index, group] = parts
            fitted = np.array([not of_fit[index] for of_fit in failed])
            lost = without_prediction(predictions[index], parts[1]) & (fitted[0::2] & fitted[1::2])[:, None]
            drops[index, group] = np.where(lost & (of_split.drops == 0), Drop.NOT_CONVERGED, of_split.drops)
    halvings = correct_split_halves((r_cross, r_map, r_target), drops, missing_image, work.settings)
    return halvings, reasons[0] if all(reasons) else ""


def _predict(
    row: Map[Any, Any],
    features: NDArray[np.float64],
    targets: Sequence[Targets],
    fit: int,
    predictions: Sequence[NDArray[np.float64]],
    work: _PairWork,
) -> list[str]:
    """Fit one half on every split and write its predictions; return why each split has no fit, or ""."""
    prepared = row.prepare_source("source animals", features, work.splits, work.settings)
    for index, part in enumerate(prepared):
        if not part.reason:
            train = targets[index].train[fit : fit + 1]
            predictions[index][fit] = row.predict(train, part, work.settings)[0]
    return [part.reason for part in prepared]


def _score_similarity(row: Similarity, work: _PairWork) -> SplitHalfScores:
    """Compare the two populations in every halving."""
    n_images, n_source_units = work.source.shape[1:]
    size = n_images * (2 * n_source_units + work.target.shape[2])
    found = []
    for group in split_half_groups(work.draws.target.shape[0], size):
        source_means, target_means = work.means(group)
        if work.chosen is not None:
            source_means = np.take_along_axis(source_means, work.chosen[group, None, None, :], axis=3)
        found.append(row.between(source_means, target_means, work.splits, work.settings))
    return concatenate_split_halves(found)


def concatenate_split_halves(parts: Sequence[SplitHalfScores]) -> SplitHalfScores:
    """Put the halvings of equal units one after another."""
    missing = np.stack([part.missing_image for part in parts])
    first = np.where(missing < 0, np.iinfo(np.int64).max, missing).min(axis=0)
    r_cross, r_map, r_target, scores = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("r_cross", "r_map", "r_target", "scores")
    )
    drops = np.concatenate([part.drops for part in parts], axis=1)
    missing_image = np.where(missing.max(axis=0) < 0, -1, first)
    return SplitHalfScores(r_cross, r_map, r_target, scores, drops, missing_image)


def pool_responses(animals: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Put the units of several animals side by side.

    Parameters
    ----------
    animals
        Each (n_trials, n_images, n_units), NaN = missing; numbers of trials may differ.

    Returns
    -------
    ndarray
        (largest n_trials, n_images, all units), trials aligned by their position; NaN where an animal has
        fewer of them.
    """
    if len(animals) == 1:
        return animals[0]
    n_trials = max(responses.shape[0] for responses in animals)
    missing = ((0, 0), (0, 0))
    return np.concatenate(
        [
            np.pad(responses, ((0, n_trials - responses.shape[0]), *missing), constant_values=np.nan)
            for responses in animals
        ],
        axis=2,
    )


def predicting_units(responses: NDArray[np.floating], weights: NDArray[np.generic]) -> NDArray[np.int64]:
    """Find the source units that can have a say: those known for every image in each half of each halving.

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
        int64 positions of these units, ascending.
    """
    patterns, of_unit = _gaps(responses)
    complete = np.ones(patterns.shape[2], dtype=np.bool_)
    for group in split_half_groups(weights.shape[0], patterns[0].size):
        complete &= ~np.isnan(half_means(patterns, weights[group])).any(axis=(0, 1, 2))
    return np.flatnonzero(complete[of_unit]).astype(np.int64)


def _gaps(responses: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct patterns of missing responses (NaN, else 0), and which of them each unit has.

    The units of an animal mostly share theirs: a missing presentation is missing for all of them.
    """
    found: dict[bytes, int] = {}
    kinds: list[NDArray[np.float64]] = []
    of_unit = np.empty(responses.shape[2], dtype=np.int64)
    for unit, missing in enumerate(np.isnan(responses).transpose(2, 0, 1)):
        key = np.packbits(missing).tobytes()
        if key not in found:
            found[key] = len(kinds)
            kinds.append(np.where(missing, np.nan, 0.0))
        of_unit[unit] = found[key]
    return np.stack(kinds, axis=2), of_unit


def source_features(
    means: NDArray[np.float64], chosen: NDArray[np.int64] | None
) -> Iterator[NDArray[np.float64]]:
    """Yield what each fit predicts from: halves 1 and 2 of each halving in turn.

    Parameters
    ----------
    means
        float64 (n_halves, 2, n_images, n_source_units).
    chosen
        int64 (n_halves, n_kept): the source units of each halving; None = all.
    """
    for halving, pair in enumerate(means):
        for half in pair:
            yield half if chosen is None else half[:, chosen[halving]]


#: Order of the source units, or None, and the weights of the target's and the source's trials.
_Row = tuple[NDArray[np.int64] | None, NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True)
class PairDraws:
    """What chance decides in one pair of target and source; a row per halving (and draw of source units).

    Attributes
    ----------
    target, source
        (n_rows, 2, n_trials of each[, n_images]): how often each trial counts in each set, see
        :func:`~mvkit.scoring.protocol.half_means`.
    units
        int64 (n_rows, n_source_units): order of the source units, of which the first ``n_kept`` that can be
        used predict; None = all of them predict.
    n_kept
        Source units to predict from.
    """

    target: NDArray[np.generic]
    source: NDArray[np.generic]
    units: NDArray[np.int64] | None
    n_kept: int


@dataclass(frozen=True)
class PairSize:
    """Trials of target and source, images, units of the source, and how many of these predict."""

    n_target_trials: int
    n_source_trials: int
    n_images: int
    n_source_units: int
    n_kept: int


def draw_pair(size: PairSize, settings: ScoreSettings) -> PairDraws:
    """Draw the halvings of a pair of animals, and which source units predict.

    Row ``b`` comes from one ``RandomState(halves_seed + b)``: first the trials of the target, which are
    therefore those of a model's score, then the trials of the source. If fewer source units than there are
    shall predict, each generator yields several rows: with at least as many halvings as sub-samples, one
    generator per halving makes ``n_subsamples`` rows, drawing units, target trials and source trials for
    each; otherwise one generator per sub-sample draws units once, and then ``n_halves`` times the trials of
    both (goldens sections 4 and 6).
    """
    rows: list[_Row] = []
    if size.n_kept >= size.n_source_units:
        for halving in range(settings.n_halves):
            rows.append((None, *_trials(_generator(settings, halving), size, settings)))
        return _concatenate_rows(rows, size)
    if settings.n_subsamples > settings.n_halves:
        for subsample in range(settings.n_subsamples):
            generator = _generator(settings, subsample)
            units = _shuffle(generator, size.n_source_units)
            rows += [(units, *_trials(generator, size, settings)) for _ in range(settings.n_halves)]
    else:
        for halving in range(settings.n_halves):
            generator = _generator(settings, halving)
            for _ in range(settings.n_subsamples):
                units = _shuffle(generator, size.n_source_units)
                rows.append((units, *_trials(generator, size, settings)))
    return _concatenate_rows(rows, size)


def _generator(settings: ScoreSettings, number: int) -> np.random.RandomState:
    return np.random.RandomState(settings.halves_seed + number)


def _shuffle(generator: np.random.RandomState, n: int) -> NDArray[np.int64]:
    order = np.arange(n, dtype=np.int64)
    generator.shuffle(order)
    return order


def _trials(
    generator: np.random.RandomState, size: PairSize, settings: ScoreSettings
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    n_images = None if settings.synchronous else size.n_images
    return (
        draw_split_half(generator, size.n_target_trials, settings.halving, n_images=n_images),
        draw_split_half(generator, size.n_source_trials, settings.halving, n_images=n_images),
    )


def _concatenate_rows(rows: list[_Row], size: PairSize) -> PairDraws:
    units = [order for order, _, _ in rows if order is not None]
    return PairDraws(
        target=np.stack([weights for _, weights, _ in rows]),
        source=np.stack([weights for _, _, weights in rows]),
        units=np.stack(units) if units else None,
        n_kept=min(size.n_kept, size.n_source_units),
    )
