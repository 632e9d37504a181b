"""Pairs of a layer and a recording, measured where they are not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.scoring.gram import InnerProducts, LayerCoordinates
from mvkit.scoring.kept import KeptScores
from mvkit.scoring.maps import MAPPINGS, prepare_layers
from mvkit.scoring.processes import as_finished, worker_count
from mvkit.scoring.protocol import ImageSplit, halving_weights, splits_of
from mvkit.scoring.settings import RecordingLike, ScoreSettings
from mvkit.scoring.similarity import pooled
from mvkit.scoring.unit_columns import UnitScores, unit_scores

Progress = Callable[[int, int], None]
#: Name of a layer, and place of a recording.
Pair = tuple[str, int]
# Jobs per worker process: enough of them that no worker idles long while another finishes its last one.
JOBS_PER_WORKER = 4


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
    inner: InnerProducts | None = None
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
    return pooled(recordings) if settings.pools_animals else recordings


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
    weights = {n_trials: halving_weights(n_trials, n_images, settings) for n_trials in trial_counts}
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

    found = as_finished(
        _score_specimen,
        (arguments(job) for job in jobs),
        n_jobs=n_jobs,
        warm_up=MAPPINGS[work.settings.mapping].warm_up,
    )
    for number, units in found:
        yield jobs[number], units


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
