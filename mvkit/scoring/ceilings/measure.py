"""Ceilings: how well each animal is predicted from the others of its area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.errors import UsageError
from mvkit.scoring.ceilings.condensing import Sourced, condensed
from mvkit.scoring.ceilings.draws import PairSize, draw_pair
from mvkit.scoring.ceilings.pairs import PairScores, score_pair
from mvkit.scoring.ceilings.sources import pooled_responses
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.processes import by_place
from mvkit.scoring.protocol import ImageSplit, result_context, splits_of
from mvkit.scoring.results import Scores
from mvkit.scoring.run import Progress, check_recordings
from mvkit.scoring.settings import RecordingLike, ScoreSettings


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
        no source can be mapped, ``reason`` says so; sources that cannot are named in ``dropped_because``.

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
    found = _scored(recordings, pairs, splits, settings, n_jobs=n_jobs, progress=progress)
    by_target: dict[int, list[Sourced]] = {}
    for place, pair in enumerate(pairs):
        animals = [recordings[index].specimen for index in pair.sources]
        by_target.setdefault(pair.target, []).append(Sourced(tuple(animals), found[place]))
    rows = [
        condensed(recording, by_target.get(index, []), len(splits), settings)
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


def _scored(
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
    return by_place(_score_job, order, arguments, n_jobs=n_jobs, warm_up=warm_up, progress=progress)


def _score_job(
    target: NDArray[np.floating],
    sources: Sequence[NDArray[np.floating]],
    n_kept: int,
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> PairScores:
    """Score one pair, always on one BLAS thread, so that every worker count gives the same bits."""
    source = pooled_responses(sources)
    size = PairSize(target.shape[0], source.shape[0], target.shape[1], source.shape[2], n_kept)
    with threadpool_limits(limits=1):
        return score_pair(target, source, draw_pair(size, settings), splits, settings)
