"""Scoring many layers against many specimens, each pair measured where its scores are not cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring.correlation import DROPPED_COLUMNS, UNMAPPED, Drop, correct_for_noise, whole_reliability
from mvkit.scoring.gram import GramMatrix, LayerCoordinates
from mvkit.scoring.maps import MAPPINGS, prepare_layers
from mvkit.scoring.parallel import run_jobs, worker_count
from mvkit.scoring.protocol import ImageSplit, SplitHalfScores, result_context, split_half_weights, splits_of
from mvkit.scoring.results import POPULATION, Column, Scores
from mvkit.scoring.settings import DEFAULT_SETTINGS, RecordingLike, ScoreSettings
from mvkit.scoring.similarity import pool_animals

# Jobs per worker process: enough of them that no worker idles long while another finishes its last one.
JOBS_PER_WORKER = 4
#: Splits of the images: all, and the two sets between which a layer is chosen and scored.
EVERY, EVEN, ODD = slice(None), slice(0, None, 2), slice(1, None, 2)


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
    per_unit = MAPPINGS[settings.mapping].per_unit
    columns, by_fold = _assemble(source.names, compared, measured, per_unit=per_unit)
    return Scores(
        columns=columns,
        by_fold=by_fold,
        layers=tuple(source.names),
        areas=tuple(dict.fromkeys(recording.area for recording in compared)),
        settings=settings,
        context=result_context(context, recordings),
    )


def _check(names: Sequence[str], recordings: Sequence[RecordingLike], settings: ScoreSettings) -> int:
    """Refuse what cannot be scored; return the number of images."""
    if not names or not recordings:
        raise UsageError(f"nothing to score: {len(names)} layers, {len(recordings)} recordings")
    return check_recordings(recordings, settings)


def _assemble(
    names: Sequence[str],
    recordings: Sequence[RecordingLike],
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


Progress = Callable[[int, int], None]
#: Name of a layer, and place of a recording.
Pair = tuple[str, int]


class KeptScores(Protocol):
    """Where scores of pairs of layer and recording are kept."""

    def read(self, layer: str, recording: RecordingLike) -> UnitScores | None:
        """Return what is kept, or None."""

    def write(self, layer: str, recording: RecordingLike, found: UnitScores) -> None:
        """Keep what was measured."""


@dataclass(frozen=True)
class LayerSource:
    """Layers whose features are opened only where they are needed.

    Attributes
    ----------
    names
        Every layer, in order.
    open
        Names -> context manager that gives layer -> (n_images, n_features), in memory or on disk, or
        :class:`~mvkit.scoring.gram.LayerCoordinates` where the mapping works from them.
    inner
        Forms inner products of features, on a device say; None: numpy does.
    keep
        Called with coordinates that were made, in one of several threads.
    """

    names: tuple[str, ...]
    open: Callable[[Sequence[str]], AbstractContextManager[Mapping[str, Any]]]
    inner: GramMatrix | None = None
    keep: Callable[[LayerCoordinates], None] | None = None


@dataclass(frozen=True)
class _Work:
    """Everything the jobs need, made once."""

    recordings: Sequence[RecordingLike]
    layers: Mapping[str, Any]  # as the row of the mapping prepared them
    splits: Sequence[ImageSplit]
    weights: Mapping[int, NDArray[np.generic]]  # number of trials -> halvings
    settings: ScoreSettings


@dataclass(frozen=True)
class _Job:
    """One specimen against some of the layers."""

    recording: int
    layers: tuple[str, ...]


def populations(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> Sequence[RecordingLike]:
    """Return what layers are compared with: the recordings, or one pool per area."""
    return pool_animals(recordings) if settings.pools_animals else recordings


def measure_pairs(
    source: LayerSource,
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings,
    pairs: Sequence[Pair],
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
    kept: KeptScores | None = None,
) -> dict[Pair, UnitScores]:
    """Score pairs of layer and recording; each is kept as soon as its job is done.

    Parameters
    ----------
    source
        The layers.
    recordings
        As :func:`populations` returns them; responses to the same images in the same order.
    settings
        The protocol.
    pairs
        Those wanted.
    n_jobs
        Worker processes; -1 = one per core. Results depend neither on it nor on what is kept, to the last
        bit.
    progress
        Called with (done, total) pairs; what is kept is done at once.
    kept
        Where scores are looked for and kept; None: nowhere.

    Raises
    ------
    DataError
        If features are not finite.
    """
    found: dict[Pair, UnitScores] = {}
    for name, place in pairs if kept is not None else ():
        earlier = kept.read(name, recordings[place]) if kept is not None else None
        if earlier is not None:
            found[name, place] = earlier
    if found and progress is not None:
        progress(len(found), len(pairs))
    missing: dict[int, list[str]] = {}
    for name, place in pairs:
        if (name, place) not in found:
            missing.setdefault(place, []).append(name)
    if not missing:
        return found
    wanted = set().union(*missing.values())
    with ExitStack() as opened:
        features = opened.enter_context(source.open([name for name in source.names if name in wanted]))
        work = _work(source, features, recordings, settings, n_jobs)
        if MAPPINGS[settings.mapping].from_coordinates:
            # Nothing of the features is needed any more; they shall take no memory meanwhile.
            del features
            opened.close()
        for job, units in _results(_jobs(missing, recordings, n_jobs), work, n_jobs):
            for name, unit in zip(job.layers, units, strict=True):
                found[name, job.recording] = unit
                if kept is not None:
                    kept.write(name, recordings[job.recording], unit)
            if progress is not None:
                progress(len(found), len(pairs))
    return found


def _work(
    source: LayerSource,
    features: Mapping[str, Any],
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings,
    n_jobs: int,
) -> _Work:
    n_images = recordings[0].responses.shape[1]
    splits = splits_of(n_images, settings)
    mapping = MAPPINGS[settings.mapping]
    layers = prepare_layers(
        mapping, features, splits, settings, n_jobs=n_jobs, inner=source.inner, keep=source.keep
    )
    trial_counts = {recording.responses.shape[0] for recording in recordings}
    weights = {n_trials: split_half_weights(n_trials, n_images, settings) for n_trials in trial_counts}
    return _Work(recordings, layers, splits, weights, settings)


def _jobs(
    missing: Mapping[int, Sequence[str]], recordings: Sequence[RecordingLike], n_jobs: int
) -> list[_Job]:
    """Divide the work into specimens, or specimens x groups of layers if workers are many; large first."""
    groups = -(-JOBS_PER_WORKER * worker_count(n_jobs) // len(missing))
    jobs = []
    for place in sorted(missing, key=lambda index: -len(recordings[index].unit_ids)):
        names = missing[place]
        parts = np.array_split(np.arange(len(names)), min(len(names), groups))
        jobs += [_Job(place, tuple(names[int(index)] for index in part)) for part in parts]
    return jobs


def _results(jobs: Sequence[_Job], work: _Work, n_jobs: int) -> Iterator[tuple[_Job, list[UnitScores]]]:
    """Do the jobs, here or elsewhere, and yield what each gives as soon as it is there."""

    def arguments(job: _Job) -> tuple[object, ...]:
        responses = work.recordings[job.recording].responses
        layers = [work.layers[layer] for layer in job.layers]
        return responses, work.weights[responses.shape[0]], work.splits, layers, work.settings

    results = run_jobs(
        _score_specimen,
        (arguments(job) for job in jobs),
        n_jobs=n_jobs,
        warm_up=MAPPINGS[work.settings.mapping].warm_up,
    )
    for index, units in results:
        yield jobs[index], units


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


@dataclass(frozen=True)
class UnitScores:
    """One layer and one specimen, condensed over halvings.

    Attributes
    ----------
    columns
        The measured columns of :class:`~mvkit.scoring.results.Scores`, each (n_units,).
    by_fold
        float64 (2, n_units): the score from the even splits of the images alone, and from the odd ones; no
        rows where there is one split only.
    """

    columns: Mapping[str, Column]
    by_fold: NDArray[np.float64]


def mean_ignoring_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over splits and halvings at once, ignoring NaN; NaN if there is nothing else.

    Parameters
    ----------
    values
        float64 (n_splits, n_halves, n_units).
    """
    valid = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(valid, values, 0.0).sum(axis=(0, 1)) / valid.sum(axis=(0, 1))
    return mean


def estimate(
    halvings: SplitHalfScores, settings: ScoreSettings, splits: slice = EVERY
) -> NDArray[np.float64]:
    """Estimate scores from halvings of some splits: the mean of corrected values, or the corrected mean.

    The first drops halvings whose reliabilities cannot correct anything, which favours the luckier halvings
    of unreliable units. The second drops none; NaN only where a mean reliability is not positive.
    """
    if settings.estimator == "mean-of-corrected":
        return mean_ignoring_nan(halvings.scores[splits])
    return correct_for_noise(*_mean_parts(halvings, splits), settings)


def _mean_parts(
    halvings: SplitHalfScores, splits: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Average r_cross, r_map and r_target over the halvings in which all three are defined."""
    parts = (halvings.r_cross[splits], halvings.r_map[splits], halvings.r_target[splits])
    undefined = np.isnan(parts[0]) | np.isnan(parts[1]) | np.isnan(parts[2])
    if undefined.any():
        parts = tuple(np.where(undefined, np.nan, part) for part in parts)  # type: ignore[assignment]
    return mean_ignoring_nan(parts[0]), mean_ignoring_nan(parts[1]), mean_ignoring_nan(parts[2])


def _by_fold(halvings: SplitHalfScores, settings: ScoreSettings) -> NDArray[np.float64]:
    if len(halvings.scores) < 2:
        return np.empty((0, halvings.scores.shape[-1]))
    return np.stack([estimate(halvings, settings, splits) for splits in (EVEN, ODD)])


def unit_scores(halvings: SplitHalfScores, layer_reason: str, settings: ScoreSettings) -> UnitScores:
    """Condense the halvings of one layer and specimen.

    Parameters
    ----------
    halvings
        Every split and halving.
    layer_reason
        Why the layer cannot be mapped on some split, or ""; it takes the place of the halvings' reasons.
    settings
        Estimator and correction.
    """
    n_units = halvings.scores.shape[-1]
    total = int(np.prod(halvings.scores.shape[:2]))
    flat = halvings.drops.reshape(total, n_units)
    dropped = {drop.code: (flat == drop).sum(axis=0) for drop in Drop if drop is not Drop.KEPT}
    n_dropped = np.sum(list(dropped.values()), axis=0)
    if layer_reason:
        dropped = {reason: np.zeros_like(n_dropped) for reason in dropped} | {UNMAPPED: n_dropped}
    score = estimate(halvings, settings)
    detail = [
        layer_reason or ("" if image < 0 else f"image {image} has no valid trial in one half")
        for image in halvings.missing_image
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        r_map, r_target = (whole_reliability(part, settings) for part in (halvings.r_map, halvings.r_target))
    columns: dict[str, Column] = {
        "raw_correlation": mean_ignoring_nan(halvings.r_cross),
        "map_reliability": mean_ignoring_nan(r_map),
        "response_reliability": mean_ignoring_nan(r_target),
        "score": score,
        "map_correlation": mean_ignoring_nan(halvings.r_map),
        "response_correlation": mean_ignoring_nan(halvings.r_target),
        "halves_used": total - n_dropped,
        "halves_dropped": n_dropped,
        "reason": np.where(np.isnan(score), _reasons(halvings, dropped, settings), ""),
        "detail": np.array(detail, dtype=object),
        **{DROPPED_COLUMNS[reason]: count for reason, count in dropped.items()},
    }
    return UnitScores(columns, _by_fold(halvings, settings))


def _reasons(
    halvings: SplitHalfScores, dropped: Mapping[str, NDArray[np.int64]], settings: ScoreSettings
) -> NDArray[np.object_]:
    """Return why each unit has no score, if it has none: what most halves were dropped for."""
    most: NDArray[np.object_] = np.array(list(dropped), dtype=object)[
        np.argmax(np.stack(list(dropped.values())), axis=0)
    ]
    if settings.estimator == "mean-of-corrected":
        return most
    _, r_map, r_target = _mean_parts(halvings, EVERY)
    of_means = np.where(r_map > 0.0, "mean_response", np.where(r_target > 0.0, "mean_map", "mean_both"))
    # Without a mean there was nothing to average.
    return np.where(np.isnan(r_map), most, of_means.astype(object))


def check_recordings(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> int:
    """Refuse recordings that cannot be scored together; return their number of images.

    Raises
    ------
    UsageError
        If there are none.
    DataError
        If their shapes do not agree or responses are infinite.
    FitError
        If there are fewer training images than the mapping needs.
    """
    if not recordings:
        raise UsageError("nothing to score: no recordings")
    n_images = int(recordings[0].responses.shape[1])
    for recording in recordings:
        where = f"{recording.area}, specimen {recording.specimen}"
        shape = (n_images, len(recording.unit_ids))
        if recording.responses.ndim != 3 or recording.responses.shape[1:] != shape:
            raise DataError(
                f"{where}: responses have shape {recording.responses.shape}, "
                f"expected (n_trials, {n_images}, {len(recording.unit_ids)})"
            )
        if np.isinf(recording.responses).any():
            raise DataError(f"{where}: responses hold infinite values; use NaN for missing ones")
    n_train = int(np.ceil(settings.train_fraction * n_images))
    needed = MAPPINGS[settings.mapping].n_train_needed(settings)
    if n_train < needed:
        raise FitError(
            f"{settings.mapping}: {needed} components cannot be fitted on {n_train} training images "
            f"(of {n_images}); lower n_components or raise train_fraction"
        )
    return n_images
