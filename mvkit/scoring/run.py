"""Scoring many layers against many recordings; each pair is measured where its scores are not cached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring.correlation import (
    DROPPED_COLUMNS,
    UNMAPPED,
    ExclusionReason,
    correct_for_noise,
    mean_ignoring_nan,
    whole_reliability,
)
from mvkit.scoring.gram import GramFunction, LayerCoordinates
from mvkit.scoring.maps import MAPPINGS, mapping_on, prepare_layers
from mvkit.scoring.measures import trial_variance
from mvkit.scoring.parallel import run_jobs, single_threaded, worker_count
from mvkit.scoring.protocol import (
    ImageSplit,
    SplitHalfScores,
    join_splits,
    result_context,
    split_half_weights,
    splits_of,
)
from mvkit.scoring.results import POPULATION, Column, Scores
from mvkit.scoring.settings import DEFAULT_SETTINGS, RecordingLike, ScoreSettings
from mvkit.scoring.similarity import pool_animals

#: Called with (done, total).
Progress = Callable[[int, int], None]
#: Name of a layer, and index of a recording.
Pair = tuple[str, int]

# Jobs per worker process: enough of them that no worker idles long while another finishes its last one.
JOBS_PER_WORKER = 4
# Layers prepared at a time take this much memory, or one layer does.
PREPARED_BYTES = 256 * 2**20
# Splits of the images: all, and the two sets between which a layer is chosen and scored.
EVERY, EVEN, ODD = slice(None), slice(0, None, 2), slice(1, None, 2)


@dataclass(frozen=True)
class UnitScores:
    """Scores of one layer and one recording, averaged over image splits and split halves.

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


class ScoreCache(Protocol):
    """Scores of pairs of layer and recording that were measured before."""

    def read(self, layer: str, recording: RecordingLike) -> UnitScores | None:
        """Return cached scores, or None."""

    def write(self, layer: str, recording: RecordingLike, scores: UnitScores, /) -> None:
        """Cache scores."""


class Unshared(np.ndarray[Any, Any]):
    """An array that is sent to a worker process along with its job, as few jobs need it.

    joblib puts plain arrays above 1 MB into shared memory and keeps them until all jobs are done: the
    responses of a whole dataset would be in memory twice.
    """


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
    gram
        Forms Gram matrices of features, on a device say; None: numpy does.
    save
        Called with new :class:`~mvkit.scoring.gram.LayerCoordinates`, in one of several threads.
    joined
        Layer that is made of several -> these, which ``open`` takes in its place.
    """

    names: tuple[str, ...]
    open: Callable[[Sequence[str]], AbstractContextManager[Mapping[str, Any]]]
    gram: GramFunction | None = None
    save: Callable[[LayerCoordinates], None] | None = None
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def composition(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return layer -> what ``open`` takes for it: itself, or the parts that it is made of."""
        return {name: self.joined.get(name, (name,)) for name in names}


def score_features(
    features: Mapping[str, NDArray[np.floating]],
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings = DEFAULT_SETTINGS,
    *,
    n_jobs: int = 1,
    fit_device: str | None = None,
    progress: Progress | None = None,
    context: Mapping[str, object] | None = None,
) -> Scores:
    """Score how well each layer predicts each unit, corrected for noise.

    Per specimen, split of the images and split half of the trials one map is fitted per half of the trials
    on the training images, for all units of the specimen jointly, and

        score = r_cross / sqrt(SB(r_map) SB(r_target)),  SB(r) = 2 r / (1 + r)

    with Pearson correlations over the test images, all between halves of the trials (paper, methods,
    "Noise-corrected neural predictivity"; goldens section 4). A unit without a valid trial for some training
    image in a half is left out of the fit of that half only.

    Two things belong to the published measure. Because r_cross is between halves but the reliabilities are
    corrected to all trials, noise leaves a factor of about sqrt((1 + r_map) / 2 * (1 + r_target) / 2) in
    every score, also in that of the true model. And a reliability near zero makes single scores arbitrarily
    large, and with them means and standard errors over units; medians do not suffer from it.

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
    fit_device
        Device of torch (``"cuda"``, say) on which PLS with ``pls_stopping="converged"`` is fitted in batches,
        by every worker process; scores then differ by rounding. None: compiled code on the processor.
    progress
        Called with (done, total) pairs of layer and specimen.
    context
        Model, dataset and the like, stored with the scores; versions of libraries are added to its
        "versions".

    Returns
    -------
    Scores
        One row per layer, area, specimen and unit.

    Raises
    ------
    DataError
        If features are not finite or do not belong to as many images as the responses.
    FitError
        If there are fewer training images than components.
    UsageError
        If there is nothing to score, or the images cannot be split, or a device is given for other fits.
    """

    @contextmanager
    def open_layers(names: Sequence[str]) -> Iterator[Mapping[str, NDArray[np.floating]]]:
        n_images = recordings[0].responses.shape[1]
        for name in names:
            if np.shape(features[name])[:1] != (n_images,):
                raise DataError(
                    f"layer '{name}': features have shape {np.shape(features[name])}, "
                    f"but the responses are to {n_images} images"
                )
        yield {name: features[name] for name in names}

    source = LayerSource(tuple(features), open_layers)
    return score_layers(
        source, recordings, settings, n_jobs=n_jobs, fit_device=fit_device, progress=progress, context=context
    )


def score_layers(
    source: LayerSource,
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings = DEFAULT_SETTINGS,
    *,
    n_jobs: int = 1,
    fit_device: str | None = None,
    progress: Progress | None = None,
    context: Mapping[str, object] | None = None,
    cache: ScoreCache | None = None,
) -> Scores:
    """Score layers whose features are opened only where their scores are not cached.

    Parameters
    ----------
    source
        The layers.
    cache
        Cache of the scores of pairs of layer and recording.
    recordings, settings, n_jobs, fit_device, progress, context
        As for :func:`score_features`.

    Returns
    -------
    Scores
        To the last bit the same whatever was cached (on a device, to rounding).

    Raises
    ------
    DataError, FitError, UsageError
        As :func:`score_features`.
    """
    if not source.names or not recordings:
        raise UsageError(f"nothing to score: {len(source.names)} layers, {len(recordings)} recordings")
    check_recordings(recordings, settings)
    compared = populations(recordings, settings)
    pairs = [(name, index) for name in source.names for index in range(len(compared))]
    scores = measure_pairs(
        source,
        compared,
        settings,
        pairs,
        n_jobs=n_jobs,
        fit_device=fit_device,
        progress=progress,
        cache=cache,
    )
    about = dict(context or {})
    if fit_device is not None:
        from mvkit.scoring.pls_torch import describe_device

        about["fit_device"] = describe_device(fit_device)
    per_unit = MAPPINGS[settings.mapping].per_unit
    columns: dict[str, list[Column]] = {}
    for name, index in pairs:
        recording, of_pair = compared[index], scores[name, index]
        n_rows = of_pair.by_fold.shape[1]
        labels: dict[str, Column] = {
            "layer": np.full(n_rows, name, dtype=object),
            "area": np.full(n_rows, recording.area, dtype=object),
            "specimen": np.full(n_rows, recording.specimen, dtype=np.int64),
            "unit_id": np.asarray(recording.unit_ids if per_unit else [POPULATION], dtype=np.int64),
        }
        for column, values in {**labels, **of_pair.columns}.items():
            columns.setdefault(column, []).append(values)
    return Scores(
        columns={column: np.concatenate(values) for column, values in columns.items()},
        by_fold=np.concatenate([scores[pair].by_fold for pair in pairs], axis=1),
        layers=tuple(source.names),
        areas=tuple(dict.fromkeys(recording.area for recording in compared)),
        settings=settings,
        context=result_context(about, recordings),
    )


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
    fit_device: str | None = None,
    progress: Progress | None = None,
    cache: ScoreCache | None = None,
) -> dict[Pair, UnitScores]:
    """Score pairs of layer and recording; each is cached as soon as its job is done.

    Parameters
    ----------
    source
        The layers.
    recordings
        As :func:`populations` returns them; responses to the same images in the same order.
    settings
        The protocol.
    pairs
        The requested ones.
    n_jobs
        Worker processes; -1 = one per core. Results depend neither on it nor on the cache, to the last bit.
    fit_device
        As for :func:`score_features`.
    progress
        Called with (done, total) pairs; cached ones are done at once.
    cache
        Cache of scores.

    Raises
    ------
    DataError
        If features are not finite.
    UsageError
        If a device is given for other fits than it can make.
    """
    mapping = mapping_on(settings, fit_device)
    scores: dict[Pair, UnitScores] = {}
    missing: dict[int, list[str]] = {}
    for name, index in pairs:
        cached = cache.read(name, recordings[index]) if cache is not None else None
        if cached is not None:
            scores[name, index] = cached
        else:
            missing.setdefault(index, []).append(name)
    if scores and progress is not None:
        progress(len(scores), len(pairs))
    if not missing:
        return scores
    n_images = recordings[0].responses.shape[1]
    splits = splits_of(n_images, settings)
    trial_counts = {recording.responses.shape[0] for recording in recordings}
    weights = {n_trials: split_half_weights(n_trials, n_images, settings) for n_trials in trial_counts}
    unshared = [np.asarray(recording.responses).view(Unshared) for recording in recordings]
    names = [name for name in source.names if any(name in layers for layers in missing.values())]
    at_a_time = layers_at_a_time(n_images, len(splits))
    with ExitStack() as opened:
        of_layers = source.composition(names).values()
        features = opened.enter_context(
            source.open(list(dict.fromkeys(one for of_layer in of_layers for one in of_layer)))
        )
        for begin in range(0, len(names), at_a_time):
            some = names[begin : begin + at_a_time]
            layers = prepare_layers(
                mapping,
                features,
                splits,
                settings,
                n_jobs=n_jobs,
                gram=source.gram,
                save=source.save,
                composition=source.composition(some),
            )
            if mapping.from_coordinates and some[-1] == names[-1]:
                # The features are not needed any more and shall take no memory meanwhile.
                del features
                opened.close()
            needed = {index: [name for name in some if name in found] for index, found in missing.items()}
            jobs = _divide_work(
                {index: found for index, found in needed.items() if found}, recordings, n_jobs
            )
            parts = _split_parts(len(jobs), len(splits), n_jobs) if mapping.per_unit else [EVERY]

            def arguments(
                job: tuple[int, Sequence[str]], part: slice, layers: Mapping[str, Any] = layers
            ) -> tuple[object, ...]:
                index, names = job
                responses = unshared[index]
                prepared = [layers[name] if part == EVERY else layers[name][part] for name in names]
                return responses, weights[responses.shape[0]], splits[part], prepared, settings, fit_device

            tasks = [(job, part) for job in jobs for part in parts]
            results = run_jobs(
                _score_recording if len(parts) == 1 else _score_splits,
                (arguments(*task) for task in tasks),
                n_jobs=n_jobs,
                warm_up=mapping.warm_up,
            )
            for (index, names_of_job), of_job in _whole_jobs(results, jobs, len(parts)):
                if len(parts) > 1:
                    reasons = [mapping.reason(layers[name]) for name in names_of_job]
                    of_job = _measured(of_job, reasons, recordings[index].responses, settings)
                for name, of_layer in zip(names_of_job, of_job, strict=True):
                    scores[name, index] = of_layer
                    if cache is not None:
                        cache.write(name, recordings[index], of_layer)
                if progress is not None:
                    progress(len(scores), len(pairs))
            del layers, arguments
    return scores


def layers_at_a_time(n_images: int, n_splits: int) -> int:
    """Return how many layers are held prepared for their splits: all of a model, unless images are many."""
    return max(1, PREPARED_BYTES // prepared_bytes(n_images, n_splits))


def prepared_bytes(n_images: int, n_splits: int) -> int:
    """Return the bytes of a layer prepared for its splits: for each, a training and a test part, float64."""
    return n_images**2 * 8 * n_splits // 2


def _divide_work(
    missing: Mapping[int, Sequence[str]], recordings: Sequence[RecordingLike], n_jobs: int
) -> list[tuple[int, Sequence[str]]]:
    """Divide recording -> layers into jobs: a recording each, or, for many workers, groups of its layers.

    Large recordings come first.
    """
    groups = -(-JOBS_PER_WORKER * worker_count(n_jobs) // len(missing))
    jobs: list[tuple[int, Sequence[str]]] = []
    for index in sorted(missing, key=lambda index: -len(recordings[index].unit_ids)):
        names = missing[index]
        parts = np.array_split(np.arange(len(names)), min(len(names), groups))
        jobs += [(index, [names[int(number)] for number in part]) for part in parts]
    return jobs


def _split_parts(n_jobs_found: int, n_splits: int, n_jobs: int) -> list[slice]:
    """Divide the splits of every job into neighbours, if there are fewer jobs than workers."""
    n_parts = min(n_splits, -(-worker_count(n_jobs) // n_jobs_found))
    ends = [n_splits * part // n_parts for part in range(n_parts + 1)]
    return [EVERY] if n_parts == 1 else [slice(*ends[part : part + 2]) for part in range(n_parts)]


def _whole_jobs(
    results: Iterator[tuple[int, Any]], jobs: Sequence[tuple[int, Sequence[str]]], n_parts: int
) -> Iterator[tuple[tuple[int, Sequence[str]], list[Any]]]:
    """Yield jobs and their results as soon as all parts of one are there, split by split put together."""
    found: dict[int, dict[int, list[Any]]] = {}
    for number, result in results:
        job, part = divmod(number, n_parts)
        found.setdefault(job, {})[part] = result
        if len(found[job]) == n_parts:
            in_order = [found[job].pop(part) for part in range(n_parts)]
            joined = result if n_parts == 1 else [join_splits(layer) for layer in zip(*in_order, strict=True)]
            yield jobs[job], joined


def _score_recording(
    responses: NDArray[np.float32],
    weights: NDArray[np.generic],
    splits: Sequence[ImageSplit],
    layers: Sequence[Any],
    settings: ScoreSettings,
    fit_device: str | None,
) -> list[UnitScores]:
    """Score one recording on all splits."""
    halves = _score_splits(responses, weights, splits, layers, settings, fit_device)
    reason = MAPPINGS[settings.mapping].reason
    reasons = [reason(layer) for layer in layers]
    return _measured(halves, reasons, responses, settings)


def _score_splits(
    responses: NDArray[np.float32],
    weights: NDArray[np.generic],
    splits: Sequence[ImageSplit],
    layers: Sequence[Any],
    settings: ScoreSettings,
    fit_device: str | None,
) -> list[SplitHalfScores]:
    """Score one recording, always on one BLAS thread, so that every worker count gives the same bits."""
    mapping = mapping_on(settings, fit_device)
    with single_threaded():
        return mapping.score(np.asarray(responses), weights, splits, layers, settings)


def _measured(
    layers: Sequence[SplitHalfScores],
    reasons: Sequence[str],
    responses: NDArray[np.floating],
    settings: ScoreSettings,
) -> list[UnitScores]:
    """Average scores over splits and halves; beside measures of all trials stands what could be explained."""
    scores = [unit_scores(*layer, settings) for layer in zip(layers, reasons, strict=True)]
    if settings.measure == "corrected":
        return scores
    explainable = trial_variance(responses).explainable()
    return [replace(one, columns={**one.columns, "explainable_variance": explainable}) for one in scores]


def unit_scores(halves: SplitHalfScores, layer_reason: str, settings: ScoreSettings) -> UnitScores:
    """Average the scores of one layer and recording over image splits and split halves.

    Parameters
    ----------
    halves
        Every image split and split half.
    layer_reason
        Why the layer cannot be mapped on some split, or ""; given in place of the reasons of the split
        halves.
    settings
        Estimator and correction.
    """
    n_units = halves.scores.shape[-1]
    total = int(np.prod(halves.scores.shape[:2]))
    flat = halves.exclusions.reshape(total, n_units)
    dropped = {
        reason.code: (flat == reason).sum(axis=0)
        for reason in ExclusionReason
        if reason is not ExclusionReason.NONE
    }
    n_dropped = np.sum(list(dropped.values()), axis=0)
    if layer_reason:
        dropped = {reason: np.zeros_like(n_dropped) for reason in dropped} | {UNMAPPED: n_dropped}
    score = estimate(halves, settings)
    detail = [
        layer_reason or ("" if image < 0 else f"image {image} has no valid trial in one half")
        for image in halves.missing_image
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        r_map, r_target = (whole_reliability(part, settings) for part in (halves.r_map, halves.r_target))
    columns: dict[str, Column] = {
        "raw_correlation": mean_ignoring_nan(halves.r_cross, axis=(0, 1)),
        "map_reliability": mean_ignoring_nan(r_map, axis=(0, 1)),
        "response_reliability": mean_ignoring_nan(r_target, axis=(0, 1)),
        "score": score,
        "map_correlation": mean_ignoring_nan(halves.r_map, axis=(0, 1)),
        "response_correlation": mean_ignoring_nan(halves.r_target, axis=(0, 1)),
        "halves_used": total - n_dropped,
        "halves_dropped": n_dropped,
        "reason": np.where(np.isnan(score), _reasons(halves, dropped, settings), ""),
        "detail": np.array(detail, dtype=object),
        **{DROPPED_COLUMNS[reason]: count for reason, count in dropped.items()},
    }
    by_fold = np.empty((0, n_units))
    if len(halves.scores) > 1:
        by_fold = np.stack([estimate(halves, settings, splits) for splits in (EVEN, ODD)])
    return UnitScores(columns, by_fold)


def estimate(halves: SplitHalfScores, settings: ScoreSettings, splits: slice = EVERY) -> NDArray[np.float64]:
    """Estimate scores from some splits: the mean of corrected values, or the corrected mean.

    The first leaves out split halves whose reliabilities cannot correct anything, which favours the luckier
    ones of unreliable units. The second leaves out none; NaN only where a mean reliability is not positive.
    """
    if not settings.corrects_means:
        return mean_ignoring_nan(halves.scores[splits], axis=(0, 1))
    return correct_for_noise(*_mean_parts(halves, splits), settings)


def _mean_parts(
    halves: SplitHalfScores, splits: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Average r_cross, r_map and r_target over the split halves in which all three are defined."""
    parts = (halves.r_cross[splits], halves.r_map[splits], halves.r_target[splits])
    undefined = np.isnan(parts[0]) | np.isnan(parts[1]) | np.isnan(parts[2])
    r_cross, r_map, r_target = (
        mean_ignoring_nan(np.where(undefined, np.nan, part), axis=(0, 1)) for part in parts
    )
    return r_cross, r_map, r_target


def _reasons(
    halves: SplitHalfScores, dropped: Mapping[str, NDArray[np.int64]], settings: ScoreSettings
) -> NDArray[np.object_]:
    """Return why each unit has no score, if it has none: what most halves were dropped for."""
    most: NDArray[np.object_] = np.array(list(dropped), dtype=object)[
        np.argmax(np.stack(list(dropped.values())), axis=0)
    ]
    if not settings.corrects_means:
        return most
    _, r_map, r_target = _mean_parts(halves, EVERY)
    of_means = np.where(r_map > 0.0, "mean_response", np.where(r_target > 0.0, "mean_map", "mean_both"))
    # Without a mean there was nothing to average.
    return np.where(np.isnan(r_map), most, of_means.astype(object))


def check_recordings(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> int:
    """Check that recordings can be scored together; return their number of images.

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
