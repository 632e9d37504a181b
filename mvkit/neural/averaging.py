"""Responses averaged over time bins, read from a neural file piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural import layout
from mvkit.neural.layout_reading import OpenNeuralFile

RecordingKey = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Wanted:
    """Units of one recording and the bins to average over.

    Attributes
    ----------
    units
        int64 (n_units,), positions in the file, ascending.
    time_bins
        Consecutive bin indices; None where the file has no time axis.
    n_trials
        Trials to read; those beyond are padding.
    """

    units: NDArray[np.int64]
    time_bins: tuple[int, ...] | None
    n_trials: int


def average_over_bins(responses: NDArray[np.floating]) -> NDArray[np.float64]:
    """Average responses over time bins.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_bins, n_units); NaN = missing.

    Returns
    -------
    float64 (n_trials, n_images, n_units)
        Mean of the bins that are there; NaN where none is.
    """
    present = ~np.isnan(responses)
    count = present.sum(axis=2)
    total = np.where(present, responses, 0).sum(axis=2, dtype=np.float64)
    average: NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(total, count, out=average, where=count > 0)
    return average


def average_counts_over_bins(counts: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Average stored counts over time bins, in spikes/s.

    Gives what :func:`average_over_bins` gives for the decoded counts, three
    times as fast, since whole numbers are summed as they lie in the file.

    Parameters
    ----------
    counts
        Stored counts (n_trials, n_images, n_bins, n_units); 255 = missing.
    """
    n_missing = (counts == layout.MISSING_COUNT).sum(axis=2)
    total = counts.sum(axis=2, dtype=np.int64) - layout.MISSING_COUNT * n_missing
    n_present = counts.shape[2] - n_missing
    average: NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(total * float(layout.COUNT_SCALE), n_present, out=average, where=n_present > 0)
    return average


def read_averages(
    file: OpenNeuralFile, wanted: Mapping[RecordingKey, Wanted]
) -> dict[RecordingKey, NDArray[np.float32]]:
    """Read and average the responses of several recordings in one pass over the file.

    Each compressed chunk that holds a wanted unit is read once, and only the
    bins in use; besides the result (float32) a slab of one chunk row is in
    memory (about 40 MB for the published Neuropixels file).

    Parameters
    ----------
    file
        The open neural file.
    wanted
        (Area, specimen) -> units, bins and number of trials.

    Returns
    -------
    dict
        (Area, specimen) -> float32 (n_trials, n_images, n_units), averaged in float64.

    Raises
    ------
    DataError
        If a chunk of the file cannot be read.
    """
    n_images = len(file.contents.frame_ids)
    averages = {
        key: np.full((part.n_trials, n_images, len(part.units)), np.nan, dtype=np.float32)
        for key, part in wanted.items()
    }
    chunk = getattr(file.stored, "chunks", None) or layout.chunk_shape(file.contents)
    # Of another library's thin chunks several are read at a time.
    rows = chunk[0] * max(1, layout.CHUNK[layout.TRIALS] // chunk[0])
    columns = chunk[-1] * max(1, layout.CHUNK[layout.UNITS] // chunk[-1])
    for first_unit in range(0, file.contents.n_units, columns):
        here = {
            key: (part, np.flatnonzero((part.units >= first_unit) & (part.units < first_unit + columns)))
            for key, part in wanted.items()
        }
        here = {key: (part, places) for key, (part, places) in here.items() if len(places)}
        if not here:
            continue
        bins = _bin_range([part for part, _ in here.values()])
        for first_trial in range(0, max(part.n_trials for part, _ in here.values()), rows):
            trials, units = slice(first_trial, first_trial + rows), slice(first_unit, first_unit + columns)
            slab = _read_slab(file, trials, bins, units)
            for key, (part, places) in here.items():
                last_trial = min(first_trial + rows, part.n_trials)
                own = slab[: max(0, last_trial - first_trial)][..., part.units[places] - first_unit]
                averages[key][first_trial:last_trial, :, places] = _averaged(
                    file, own, part.time_bins, bins.start
                )
    return averages


def _averaged(
    file: OpenNeuralFile, stored: NDArray[Any], time_bins: tuple[int, ...] | None, first_bin: int
) -> NDArray[Any]:
    if time_bins is None:
        return file.decode(stored)
    chosen = stored[:, :, np.array(time_bins) - first_bin]
    return (
        average_counts_over_bins(chosen)
        if file.contents.holds_counts
        else average_over_bins(file.decode(chosen))
    )


def _bin_range(parts: list[Wanted]) -> slice:
    """Return the smallest range of bins that covers those of all parts; everything without a time axis."""
    used = [index for part in parts if part.time_bins is not None for index in part.time_bins]
    return slice(min(used), max(used) + 1) if used else slice(0, 0)


def _read_slab(file: OpenNeuralFile, trials: slice, bins: slice, units: slice) -> NDArray[Any]:
    where = (
        (trials, slice(None), units) if file.contents.time_s is None else (trials, slice(None), bins, units)
    )
    try:
        slab: NDArray[Any] = file.stored[where]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{file.path}: responses of trials {trials.start} to {trials.stop - 1} cannot be read; "
            f"the file is damaged ({str(error).splitlines()[0]})"
        ) from error
    return slab
