"""Scoring many layers against many specimens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError
from mvkit.scoring.checks import check_recordings
from mvkit.scoring.kept import KeptScores
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.pairs import LayerSource, Pair, Progress, measure_pairs, populations
from mvkit.scoring.protocol import result_context
from mvkit.scoring.results import POPULATION, Column, Scores
from mvkit.scoring.settings import DEFAULT_SETTINGS, RecordingLike, ScoreSettings, Units
from mvkit.scoring.unit_columns import UnitScores


def score_features(
    features: Mapping[str, NDArray[np.floating]],
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings = DEFAULT_SETTINGS,
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
    context: Mapping[str, object] | None = None,
) -> Scores:
    """Score how well each layer predicts each unit, corrected for noise.

    Per specimen, split of the images and halving of the trials one map is fitted per half of the trials on
    the training images, for all units of the specimen jointly, and

        score = r_cross / sqrt(SB(r_map) SB(r_target)),  SB(r) = 2 r / (1 + r)

    with Pearson correlations over the test images, all between halves of the trials (paper, methods,
    "Noise-corrected neural predictivity"; goldens section 4). A unit without a valid trial for some training
    image in a half is left out of the fit of that half only.

    Two things belong to the published measure. Because r_cross is between halves but the reliabilities are
    corrected to all trials, noise leaves a factor of about sqrt((1 + r_map) / 2 * (1 + r_target) / 2) in
    every score, also in that of the true model. And a reliability near zero makes single scores arbitrarily
    large, and with them means and standard errors over units; medians bear it.

    Parameters
    ----------
    features
        Layer -> (n_images, n_features).
    recordings
        Responses to the same images in the same order.
    settings
        The protocol; the defaults are the paper's.
    n_jobs
        Worker processes; -1 = one per core. Results do not depend on it, to the last bit.
    progress
        Called with (done, total) pairs of layer and specimen.
    context
        Model, dataset and the like, kept with the scores; its "versions" are added to.

    Raises
    ------
    DataError
        If features are not finite or do not belong to as many images as the responses.
    FitError
        If there are fewer training images than components.
    UsageError
        If there is nothing to score, or the images cannot be split.
    """
    n_images = _check(tuple(features), recordings, settings)
    for name, values in features.items():
        if np.shape(values)[:1] != (n_images,):
            raise DataError(
                f"layer '{name}': features have shape {np.shape(values)}, "
                f"but the responses are to {n_images} images"
            )

    @contextmanager
    def given(names: Sequence[str]) -> Iterator[Mapping[str, NDArray[np.floating]]]:
        yield {name: features[name] for name in names}

    source = LayerSource(tuple(features), given)
    return score_layers(source, recordings, settings, n_jobs=n_jobs, progress=progress, context=context)


def score_layers(
    source: LayerSource,
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings = DEFAULT_SETTINGS,
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
    context: Mapping[str, object] | None = None,
    kept: KeptScores | None = None,
) -> Scores:
    """Score layers whose features are opened only where their scores are not kept.

    Parameters
    ----------
    source
        The layers.
    kept
        Where scores of pairs of layer and specimen are looked for and kept; None: nowhere.
    recordings, settings, n_jobs, progress, context
        As for :func:`score_features`.

    Returns
    -------
    Scores
        To the last bit the same whatever was kept.

    Raises
    ------
    DataError, FitError, UsageError
        As :func:`score_features`.
    """
    _check(source.names, recordings, settings)
    compared = populations(recordings, settings)
    pairs = [(name, place) for name in source.names for place in range(len(compared))]
    measured = measure_pairs(source, compared, settings, pairs, n_jobs=n_jobs, progress=progress, kept=kept)
    return assemble_scores(source.names, compared, measured, settings, result_context(context, recordings))


def _check(names: Sequence[str], recordings: Sequence[RecordingLike], settings: ScoreSettings) -> int:
    """Refuse what cannot be scored; return the number of images."""
    if not names or not recordings:
        raise UsageError(f"nothing to score: {len(names)} layers, {len(recordings)} recordings")
    return check_recordings(recordings, settings)


def assemble_scores(
    names: Sequence[str],
    recordings: Sequence[Units],
    measured: Mapping[Pair, UnitScores],
    settings: ScoreSettings,
    context: Mapping[str, object],
) -> Scores:
    """Put the scores of all layers and specimens together.

    Parameters
    ----------
    names, recordings
        Layers, and areas, animals and units in the order of the rows.
    measured
        Every pair of a layer and the place of a recording.
    settings, context
        As :class:`~mvkit.scoring.results.Scores` keeps them.
    """
    per_unit = MAPPINGS[settings.mapping].per_unit
    columns, by_fold = _assemble(names, recordings, measured, per_unit=per_unit)
    return Scores(
        columns=columns,
        by_fold=by_fold,
        layers=tuple(names),
        areas=tuple(dict.fromkeys(recording.area for recording in recordings)),
        settings=settings,
        context=context,
    )


def _assemble(
    names: Sequence[str],
    recordings: Sequence[Units],
    measured: Mapping[Pair, UnitScores],
    *,
    per_unit: bool,
) -> tuple[dict[str, Column], NDArray[np.float64]]:
    """Put the columns of all layers and specimens under one another, and their scores by split."""
    pieces: dict[str, list[Column]] = {}
    by_fold = []
    for name in names:
        for index, recording in enumerate(recordings):
            found = measured[name, index]
            n_rows = found.by_fold.shape[1]
            ids = recording.unit_ids if per_unit else [POPULATION]
            identity: dict[str, Column] = {
                "layer": np.full(n_rows, name, dtype=object),
                "area": np.full(n_rows, recording.area, dtype=object),
                "specimen": np.full(n_rows, recording.specimen, dtype=np.int64),
                "unit_id": np.asarray(ids, dtype=np.int64),
            }
            for column, values in {**identity, **found.columns}.items():
                pieces.setdefault(column, []).append(values)
            by_fold.append(found.by_fold)
    columns = {column: np.concatenate(values) for column, values in pieces.items()}
    return columns, np.concatenate(by_fold, axis=1)
