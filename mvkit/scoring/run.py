"""Scoring many layers against many specimens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring.halvings import score_halvings
from mvkit.scoring.pls import prepare_kernel
from mvkit.scoring.protocol import ImageSplit, halves_of, image_splits, trial_orders
from mvkit.scoring.reduction import SplitCoordinates, layer_coordinates, split_coordinates
from mvkit.scoring.results import Scores
from mvkit.scoring.settings import DEFAULT_SETTINGS, ScoreSettings
from mvkit.scoring.unit_columns import Column, unit_columns
from mvkit.versions import installed_versions

Progress = Callable[[int, int], None]
# Jobs per worker process: enough of them that no worker idles long while another finishes its last one.
JOBS_PER_WORKER = 4


class RecordingLike(Protocol):
    """What scoring needs of a recording (:class:`mvkit.neural.Recording` has it)."""

    @property
    def area(self) -> str:
        """Visual area."""

    @property
    def specimen(self) -> int:
        """Animal."""

    @property
    def unit_ids(self) -> NDArray[np.int64]:
        """int64 (n_units,)."""

    @property
    def responses(self) -> NDArray[np.float32]:
        """(n_trials, n_images, n_units), NaN = missing."""


@dataclass(frozen=True)
class _Work:
    """Everything the jobs need, made once."""

    recordings: Sequence[RecordingLike]
    layers: Sequence[tuple[SplitCoordinates, ...]]
    splits: Sequence[ImageSplit]
    members: Mapping[int, NDArray[np.bool_]]  # number of trials -> halvings
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
    splits = image_splits(
        n_images,
        n_splits=settings.n_splits,
        train_fraction=settings.train_fraction,
        seed=settings.split_seed,
    )
    with threadpool_limits(limits=1):
        layers = [_split_layer(name, values, splits, settings) for name, values in features.items()]
    trial_counts = {recording.responses.shape[0] for recording in recordings}
    members = {
        n_trials: halves_of(trial_orders(n_trials, n_halves=settings.n_halves, seed=settings.halves_seed))
        for n_trials in trial_counts
    }
    work = _Work(recordings, layers, splits, members, settings)
    jobs = _jobs(recordings, len(layers), n_jobs)
    about = dict(context or {})
    others = about.pop("versions", None)
    others = others if isinstance(others, Mapping) else {}
    done = 0
    measured: dict[tuple[int, int], Mapping[str, Column]] = {}
    for job, columns in _results(jobs, work, n_jobs):
        measured.update(
            {(layer, job.recording): column for layer, column in zip(job.layers, columns, strict=True)}
        )
        done += len(job.layers)
        if progress is not None:
            progress(done, len(layers) * len(recordings))
    return Scores(
        columns=_assemble(list(features), recordings, measured),
        layers=tuple(features),
        areas=tuple(dict.fromkeys(recording.area for recording in recordings)),
        settings=settings,
        context={**about, "versions": {**installed_versions("numpy", "scipy", "numba"), **others}},
    )


def _check(
    features: Mapping[str, NDArray[np.floating]], recordings: Sequence[RecordingLike], settings: ScoreSettings
) -> int:
    """Refuse what cannot be scored; return the number of images."""
    if not features or not recordings:
        raise UsageError(f"nothing to score: {len(features)} layers, {len(recordings)} recordings")
    n_images = int(recordings[0].responses.shape[1])
    for recording in recordings:
        where = f"{recording.area}, specimen {recording.specimen}"
        if recording.responses.ndim != 3 or recording.responses.shape[1:] != (
            n_images,
            len(recording.unit_ids),
        ):
            raise DataError(
                f"{where}: responses have shape {recording.responses.shape}, "
                f"expected (n_trials, {n_images}, {len(recording.unit_ids)})"
            )
        if np.isinf(recording.responses).any():
            raise DataError(f"{where}: responses hold infinite values; use NaN for missing ones")
    for name, values in features.items():
        if np.shape(values)[:1] != (n_images,):
            raise DataError(
                f"layer '{name}': features have shape {np.shape(values)}, "
                f"but the responses are to {n_images} images"
            )
    n_train = int(np.ceil(settings.train_fraction * n_images))
    if n_train < settings.n_components:
        raise FitError(
            f"{settings.n_components} components cannot be fitted on {n_train} training images "
            f"(of {n_images}); lower n_components or raise train_fraction"
        )
    return n_images


def _split_layer(
    name: str, values: NDArray[np.floating], splits: Sequence[ImageSplit], settings: ScoreSettings
) -> tuple[SplitCoordinates, ...]:
    layer = layer_coordinates(name, values)
    return tuple(split_coordinates(layer, split, settings.n_components) for split in splits)


def _jobs(recordings: Sequence[RecordingLike], n_layers: int, n_jobs: int) -> list[_Job]:
    """Divide the work into specimens, or specimens x groups of layers if workers are many; large first."""
    workers = _workers(n_jobs)
    groups = min(n_layers, -(-JOBS_PER_WORKER * workers // len(recordings)))
    parts = [tuple(int(layer) for layer in part) for part in np.array_split(np.arange(n_layers), groups)]
    order = sorted(range(len(recordings)), key=lambda index: -len(recordings[index].unit_ids))
    return [_Job(recording, part) for recording in order for part in parts]


def _workers(n_jobs: int) -> int:
    from joblib import effective_n_jobs

    if n_jobs == 0:
        raise UsageError("n_jobs=0: give a number of worker processes, or -1 for one per core")
    return int(effective_n_jobs(n_jobs))


def _results(
    jobs: Sequence[_Job],
    work: _Work,
    n_jobs: int,
) -> Iterator[tuple[_Job, list[Mapping[str, Column]]]]:
    """Do the jobs, here or in worker processes, in the order given."""

    def arguments(job: _Job) -> tuple[object, ...]:
        responses = work.recordings[job.recording].responses
        layers = [work.layers[layer] for layer in job.layers]
        return responses, work.members[responses.shape[0]], work.splits, layers, work.settings

    if _workers(n_jobs) == 1:
        for job in jobs:
            yield job, _score_specimen(*arguments(job))  # type: ignore[arg-type]
        return
    from joblib import Parallel, delayed

    prepare_kernel()  # so that the workers find it on disk and need not each compile it
    run = Parallel(n_jobs=n_jobs, backend="loky", return_as="generator")
    yield from zip(jobs, run(delayed(_score_specimen)(*arguments(job)) for job in jobs), strict=True)


def _score_specimen(
    responses: NDArray[np.float32],
    members: NDArray[np.bool_],
    splits: Sequence[ImageSplit],
    layers: Sequence[Sequence[SplitCoordinates]],
    settings: ScoreSettings,
) -> list[Mapping[str, Column]]:
    """Score one specimen, always on one BLAS thread, so that every worker count gives the same bits."""
    with threadpool_limits(limits=1):
        halvings = score_halvings(responses, members, splits, layers, settings)
    reasons = [next((part.reason for part in layer if part.reason), "") for layer in layers]
    return [unit_columns(parts, reason) for parts, reason in zip(halvings, reasons, strict=True)]


def _assemble(
    names: Sequence[str],
    recordings: Sequence[RecordingLike],
    measured: Mapping[tuple[int, int], Mapping[str, Column]],
) -> dict[str, Column]:
    """Put the columns of all layers and specimens under one another."""
    pieces: dict[str, list[Column]] = {}
    for layer, name in enumerate(names):
        for index, recording in enumerate(recordings):
            n_units = len(recording.unit_ids)
            identity: dict[str, Column] = {
                "layer": np.full(n_units, name, dtype=object),
                "area": np.full(n_units, recording.area, dtype=object),
                "specimen": np.full(n_units, recording.specimen, dtype=np.int64),
                "unit_id": np.asarray(recording.unit_ids, dtype=np.int64),
            }
            for column, values in {**identity, **measured[layer, index]}.items():
                pieces.setdefault(column, []).append(values)
    return {column: np.concatenate(values) for column, values in pieces.items()}
