"""Scoring many layers against many specimens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.errors import DataError, UsageError
from mvkit.scoring.checks import check_recordings
from mvkit.scoring.identity import result_context
from mvkit.scoring.mappings import MAPPINGS
from mvkit.scoring.processes import in_order, worker_count
from mvkit.scoring.protocol import ImageSplit, halving_weights, splits_of
from mvkit.scoring.recordings import RecordingLike
from mvkit.scoring.results import POPULATION, Scores
from mvkit.scoring.settings import DEFAULT_SETTINGS, ScoreSettings
from mvkit.scoring.similarity.pooling import pooled
from mvkit.scoring.unit_columns import Column, UnitScores, unit_scores

Progress = Callable[[int, int], None]
# Jobs per worker process: enough of them that no worker idles long while another finishes its last one.
JOBS_PER_WORKER = 4


@dataclass(frozen=True)
class _Work:
    """Everything the jobs need, made once."""

    recordings: Sequence[RecordingLike]
    layers: Sequence[Any]  # as the row of the mapping prepared them
    splits: Sequence[ImageSplit]
    weights: Mapping[int, NDArray[np.generic]]  # number of trials -> halvings
    settings: ScoreSettings


@dataclass(frozen=True)
class _Job:
    """One specimen against some of the layers."""

    recording: int
    layers: tuple[int, ...]


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
    n_images = _check(features, recordings, settings)
    about = result_context(context, recordings)
    splits = splits_of(n_images, settings)
    mapping = MAPPINGS[settings.mapping]
    if settings.pools_animals:
        recordings = pooled(recordings)
    with threadpool_limits(limits=1):
        layers = [mapping.prepare(name, values, splits, settings) for name, values in features.items()]
    trial_counts = {recording.responses.shape[0] for recording in recordings}
    weights = {n_trials: halving_weights(n_trials, n_images, settings) for n_trials in trial_counts}
    work = _Work(recordings, layers, splits, weights, settings)
    jobs = _jobs(recordings, len(layers), n_jobs)
    done = 0
    measured: dict[tuple[int, int], UnitScores] = {}
    for job, found in _results(jobs, work, n_jobs):
        measured.update({(layer, job.recording): unit for layer, unit in zip(job.layers, found, strict=True)})
        done += len(job.layers)
        if progress is not None:
            progress(done, len(layers) * len(recordings))
    columns, by_fold = _assemble(list(features), recordings, measured, per_unit=mapping.per_unit)
    return Scores(
        columns=columns,
        by_fold=by_fold,
        layers=tuple(features),
        areas=tuple(dict.fromkeys(recording.area for recording in recordings)),
        settings=settings,
        context=about,
    )


def _check(
    features: Mapping[str, NDArray[np.floating]], recordings: Sequence[RecordingLike], settings: ScoreSettings
) -> int:
    """Refuse what cannot be scored; return the number of images."""
    if not features or not recordings:
        raise UsageError(f"nothing to score: {len(features)} layers, {len(recordings)} recordings")
    n_images = check_recordings(recordings, settings)
    for name, values in features.items():
        if np.shape(values)[:1] != (n_images,):
            raise DataError(
                f"layer '{name}': features have shape {np.shape(values)}, "
                f"but the responses are to {n_images} images"
            )
    return n_images


def _jobs(recordings: Sequence[RecordingLike], n_layers: int, n_jobs: int) -> list[_Job]:
    """Divide the work into specimens, or specimens x groups of layers if workers are many; large first."""
    workers = worker_count(n_jobs)
    groups = min(n_layers, -(-JOBS_PER_WORKER * workers // len(recordings)))
    parts = [tuple(int(layer) for layer in part) for part in np.array_split(np.arange(n_layers), groups)]
    order = sorted(range(len(recordings)), key=lambda index: -len(recordings[index].unit_ids))
    return [_Job(recording, part) for recording in order for part in parts]


def _results(
    jobs: Sequence[_Job],
    work: _Work,
    n_jobs: int,
) -> Iterator[tuple[_Job, list[UnitScores]]]:
    """Do the jobs, here or in worker processes, in the order given."""

    def arguments(job: _Job) -> tuple[object, ...]:
        responses = work.recordings[job.recording].responses
        layers = [work.layers[layer] for layer in job.layers]
        return responses, work.weights[responses.shape[0]], work.splits, layers, work.settings

    found = in_order(
        _score_specimen,
        (arguments(job) for job in jobs),
        n_jobs=n_jobs,
        warm_up=MAPPINGS[work.settings.mapping].warm_up,
    )
    yield from zip(jobs, found, strict=True)


def _score_specimen(
    responses: NDArray[np.float32],
    weights: NDArray[np.generic],
    splits: Sequence[ImageSplit],
    layers: Sequence[Any],
    settings: ScoreSettings,
) -> list[UnitScores]:
    """Score one specimen, always on one BLAS thread, so that every worker count gives the same bits."""
    mapping = MAPPINGS[settings.mapping]
    with threadpool_limits(limits=1):
        halvings = mapping.score(responses, weights, splits, layers, settings)
    return [
        unit_scores(parts, mapping.reason(layer), settings)
        for parts, layer in zip(halvings, layers, strict=True)
    ]


def _assemble(
    names: Sequence[str],
    recordings: Sequence[RecordingLike],
    measured: Mapping[tuple[int, int], UnitScores],
    *,
    per_unit: bool,
) -> tuple[dict[str, Column], NDArray[np.float64]]:
    """Put the columns of all layers and specimens under one another, and their scores by split."""
    pieces: dict[str, list[Column]] = {}
    by_fold = []
    for layer, name in enumerate(names):
        for index, recording in enumerate(recordings):
            found = measured[layer, index]
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
