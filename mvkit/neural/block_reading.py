"""All trials of a neural file, a block of units and time bins at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural import layout
from mvkit.neural.layout import NeuralFileContents
from mvkit.neural.layout_reading import OpenNeuralFile


def trial_counts(contents: NeuralFileContents) -> NDArray[np.int64]:
    """Return the trials recorded of each unit, int64 (n_units,); the file pads what is beyond them."""
    n_trials = len(contents.trials)
    column = contents.unit_columns.get("n_trials")
    # In another order of the trials, padding is no longer behind what was recorded.
    if column is None or column.dtype.kind not in "iuf" or (np.diff(contents.trials) <= 0).any():
        return np.full(contents.n_units, n_trials, dtype=np.int64)
    known = np.where(np.isnan(column), n_trials, column)
    return np.clip(known, 0, n_trials).astype(np.int64)


def blocks(file: OpenNeuralFile) -> Iterator[tuple[slice, slice]]:
    """Yield (time bins, units) of blocks that cover the responses and follow the file's chunks.

    Without a time axis the bins are ``slice(0, 1)``. A block of the usual chunks has 5 bins and 128 units.
    """
    contents = file.contents
    usual = layout.chunk_shape(contents)
    chunk = file.stored.chunks or usual
    n_bins = 1 if contents.time_s is None else len(contents.time_s)
    # Chunks of another writer may be larger than memory bears.
    n_units_here = min(chunk[-1], layout.CHUNK[layout.UNITS])
    n_bins_here = 1 if contents.time_s is None else min(chunk[2], layout.CHUNK[layout.TIME])
    for unit in range(0, contents.n_units, n_units_here):
        for time_bin in range(0, n_bins, n_bins_here):
            yield (
                slice(time_bin, min(time_bin + n_bins_here, n_bins)),
                slice(unit, min(unit + n_units_here, contents.n_units)),
            )


def read_block(file: OpenNeuralFile, bins: slice, units: slice) -> NDArray[np.floating]:
    """Read all trials and images of a block, decoded; NaN = missing.

    Parameters
    ----------
    file
        The open neural file.
    bins, units
        A block of :func:`blocks`.

    Returns
    -------
    ndarray
        (n_trials, n_images, n_bins, n_units) in the file's units of measure; one bin without a time axis.

    Raises
    ------
    DataError
        If the file is damaged there.
    """
    everything = slice(None)
    try:
        if file.contents.time_s is None:
            return file.read(everything, everything, units)[:, :, None, :]
        return file.read(everything, everything, bins, units)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{file.path}: responses of units {units.start} to {units.stop - 1} cannot be read; "
            f"the file is damaged ({str(error).splitlines()[0]})"
        ) from error
