"""Measure split-half reliabilities of a neural file and store them in it.

Recordings that come without reliabilities are kept whole by every selection; with them they are selected as
the published ones are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mvkit
from mvkit.errors import DataError, UsageError, wording
from mvkit.fetch.manifest import Manifest, Record
from mvkit.files import check_output_path, file_lock, sha256_of
from mvkit.machine import available_cores, check_free_disk
from mvkit.neural.dataset import NeuralDataset
from mvkit.neural.neural_file import NeuralFileContents, OpenNeuralFile, open_neural_file
from mvkit.neural.open import blocks, read_block, trial_counts
from mvkit.neural.reliability import (
    ReliabilityReport,
    StoredReliabilities,
    copy_with_reliabilities,
    reliabilities_present,
    reliability_by_area,
)
from mvkit.paths import expand, home_dir
from mvkit.scoring.parallel import single_threaded
from mvkit.scoring.protocol import halves_of, trial_orders_in_sequence
from mvkit.scoring.reliability import split_half_moments

Progress = Callable[[int, int], None]
_MOST_THREADS = 4
#: Blocks that were read and wait for a thread, 15 MB each.
_MOST_WAITING = 4
#: HDF5 adds to its tables besides the reliabilities themselves.
_SPARE_BYTES = 1 << 20


def measure_reliability(
    path: str | Path,
    *,
    n_halves: int = 100,
    seed: int = 0,
    out: str | Path | None = None,
    replace: bool = False,
    home: Path | None = None,
    progress: Progress | None = None,
) -> ReliabilityReport:
    """Measure the split-half reliability of every unit of a neural file and store it in the file.

    The definition is that of the published recordings, whose stored reliabilities come out to the last few
    bits with the defaults: the trials are split in half ``n_halves`` times, by successive shuffles of one
    ``RandomState(seed)`` that serve all units; the mean responses of the two halves, missing trials ignored,
    are correlated over the images; 2 r / (1 + r) corrects to all trials (Spearman 1910, Brown 1910); and the
    mean and standard deviation over the ``n_halves`` are stored. Halves without a valid trial for some image,
    or that do not vary, do not count. Files with a time axis get ``splithalf_r_mean`` and ``splithalf_r_std``
    per time bin, others ``reliability_mean`` and ``reliability_std``.

    Units are worked through in blocks, so that memory does not grow with their number. The file appears
    whole or not at all: a copy is made beside it, flushed to disk and renamed.

    Parameters
    ----------
    path
        Neural file.
    n_halves
        Times that the trials are split in half.
    seed
        Of the shuffles.
    out
        Write here and leave ``path`` as it is. Default: the file itself.
    replace
        Replace reliabilities that the file has, and the file ``out`` if it exists.
    home
        mvkit's home directory, whose record of its files is kept true.
    progress
        Called with columns (units times time bins) done and in all.

    Returns
    -------
    ReliabilityReport

    Raises
    ------
    UsageError
        If ``n_halves`` or ``seed`` is out of range, or something would be replaced and ``replace`` is False.
    DataError
        If the file is missing, damaged or no neural file, or cannot be written.
    FetchError
        If there is too little free disk for the copy.
    """
    if n_halves < 1:
        raise UsageError(f"n_halves={n_halves}: at least 1 is needed")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed={seed}: a whole number from 0 to {2**32 - 1} is needed")
    began = time.monotonic()
    source = expand(path)
    target = source if out is None else expand(out)
    with open_neural_file(source) as file:
        contents = file.contents
        present = reliabilities_present(contents)
        _check_replace(source, target, present, replace=replace)
        check_output_path(target, overwrite=True, example="mine.h5")
        before = source.stat()
        check_free_disk(target.parent, before.st_size + 2 * 8 * _n_columns(contents) + _SPARE_BYTES)
        measured = _measure(file, n_halves, seed, progress or (lambda done, total: None))
    after = source.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (
        after.st_ino,
        after.st_size,
        after.st_mtime_ns,
    ):
        raise DataError(f"{source}: changed while it was measured; nothing was written, try again")
    areas = reliability_by_area(contents, measured.mean)
    record = _record(contents, n_halves, seed, present)
    stored = StoredReliabilities(measured.mean, measured.std, record)
    _store(source, target, contents, stored, home=home_dir(home))
    return ReliabilityReport(
        source=source,
        target=target,
        dataset=contents.dataset,
        n_halves=n_halves,
        seed=seed,
        mean=measured.mean,
        std=measured.std,
        reasons=measured.reasons,
        areas=areas,
        replaced=present,
        seconds=time.monotonic() - began,
    )


def unit_reliabilities(
    dataset: NeuralDataset, *, n_halves: int = 20, seed: int = 0, progress: Progress | None = None
) -> list[NDArray[np.float64]]:
    """Measure the split-half reliability of every unit, quickly; nothing is stored.

    Parameters
    ----------
    dataset
        Recordings.
    n_halves
        Times that the trials are split in half, as :func:`measure_reliability` does.
    seed
        Of the shuffles.
    progress
        Called with recordings done and in all.

    Returns
    -------
    list of ndarray
        float64 (n_units,) per recording; NaN where a unit has no reliability, or there is one trial.
    """
    reliabilities: list[NDArray[np.float64]] = []
    with single_threaded():
        for recording in dataset.recordings:
            if recording.n_trials < 2:
                reliabilities.append(np.full(recording.n_units, np.nan))
            else:
                orders = trial_orders_in_sequence(recording.n_trials, n_halves=n_halves, seed=seed)
                reliabilities.append(split_half_moments(recording.responses, halves_of(orders)).mean)
            if progress is not None:
                progress(len(reliabilities), len(dataset.recordings))
    return reliabilities


def _check_replace(source: Path, target: Path, present: tuple[str, ...], *, replace: bool) -> None:
    if replace:
        return
    if present:
        raise UsageError(
            f"{source}: has reliabilities already ({', '.join(present)})\n"
            f"measure them again and replace them with {wording('--replace', 'replace=True')}"
        )
    if target != source and target.exists():
        raise UsageError(f"{target}: exists already\nreplace it with {wording('--replace', 'replace=True')}")


def _n_columns(contents: NeuralFileContents) -> int:
    return contents.n_units * (1 if contents.time_s is None else len(contents.time_s))


#: Mean, standard deviation and whether some half lacks a trial, each (n_bins, n_units).
_Moments = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class _Measured:
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    reasons: NDArray[np.str_]


def _measure(file: OpenNeuralFile, n_halves: int, seed: int, progress: Progress) -> _Measured:
    contents = file.contents
    counts = trial_counts(contents)
    members = {
        int(n_trials): halves_of(trial_orders_in_sequence(int(n_trials), n_halves=n_halves, seed=seed))
        for n_trials in np.unique(counts)
    }
    n_bins = 1 if contents.time_s is None else len(contents.time_s)
    mean, std = np.full((2, n_bins, contents.n_units), np.nan)
    missing = np.zeros(mean.shape, dtype=np.bool_)
    waiting: deque[tuple[slice, slice, Future[_Moments]]] = deque()
    done = 0

    def put(bins: slice, units: slice, job: Future[_Moments]) -> None:
        nonlocal done
        mean[bins, units], std[bins, units], missing[bins, units] = job.result()
        done += (bins.stop - bins.start) * (units.stop - units.start)
        progress(done, mean.size)

    # BLAS gets one thread, so that sums do not depend on the number of cores; blocks are independent.
    with single_threaded(), ThreadPoolExecutor(_n_threads()) as pool:
        for bins, units in blocks(file):
            waiting.append(
                (bins, units, pool.submit(_moments, read_block(file, bins, units), counts[units], members))
            )
            if len(waiting) > _MOST_WAITING:
                put(*waiting.popleft())
        while waiting:
            put(*waiting.popleft())
    reasons = _reasons(mean, missing)
    if contents.time_s is None:
        return _Measured(mean[0], std[0], reasons)
    return _Measured(mean, std, reasons)


def _moments(
    slab: NDArray[np.floating], counts: NDArray[np.int64], members: Mapping[int, NDArray[np.bool_]]
) -> _Moments:
    """Return mean, standard deviation and whether halves lack trials, each (n_bins, n_units), of a block.

    Units are taken together that have equally many trials, and thus the same halves.
    """
    shape = slab.shape[2:]
    mean, std = np.empty((2, *shape))
    missing = np.empty(shape, dtype=np.bool_)
    for n_trials in np.unique(counts).tolist():
        own = np.flatnonzero(counts == n_trials)
        values = slab[:n_trials] if len(own) == len(counts) else slab[:n_trials, ..., own]
        moments = split_half_moments(values.reshape(n_trials, slab.shape[1], -1), members[n_trials])
        own_shape = (shape[0], len(own))
        mean[:, own], std[:, own] = moments.mean.reshape(own_shape), moments.std.reshape(own_shape)
        missing[:, own] = (moments.n_missing > 0).reshape(own_shape)
    return mean, std, missing


def _reasons(mean: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.str_]:
    undefined = np.isnan(mean).all(axis=0)
    return np.select(
        [~undefined, missing.all(axis=0)],
        ["", "no valid trial for some image in one half"],
        default="constant response in one half",
    )


def _record(
    contents: NeuralFileContents, n_halves: int, seed: int, replaced: tuple[str, ...]
) -> dict[str, object]:
    """Return how the reliabilities were measured, for the file's provenance."""
    return {
        "measured_by": f"mvkit {mvkit.__version__}",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "halving": "split-half",
        "n_halves": n_halves,
        "seed": seed,
        "draws": "successive shuffles of one RandomState(seed), the same for all units",
        "correlation": "pearson over all images, Spearman-Brown corrected",
        "n_trials": sorted(set(trial_counts(contents).tolist())),
        "replaced": list(replaced),
    }


def _store(
    source: Path, target: Path, contents: NeuralFileContents, values: StoredReliabilities, *, home: Path
) -> None:
    """Write the file, and its new size and digest into the manifest of mvkit's home if it is listed there."""
    manifest, path = Manifest(home), target.absolute()
    known = manifest.find(path) if path.is_relative_to(home) else None
    with nullcontext() if known is None else file_lock(target):
        copy_with_reliabilities(source, target, contents, values)
        if known is not None:
            made_from = {**(known.made_from or {}), "reliabilities": dict(values.record)}
            sha256 = sha256_of(target)
            manifest.record(path, Record(size=target.stat().st_size, sha256=sha256, made_from=made_from))


def _n_threads() -> int:
    return min(_MOST_THREADS, available_cores())
