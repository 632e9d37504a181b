"""Reliabilities of units in a neural file: under which names they lie, and how a file gets them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.atomic import replacing
from mvkit.errors import DataError
from mvkit.neural import layout
from mvkit.neural.guarded_file import GuardedFile
from mvkit.neural.layout import NeuralFileContents

#: Mean over halvings of the trials, per time bin and unit, or per unit where there is no time axis.
RELIABILITY_PER_BIN = "splithalf_r_mean"
RELIABILITY = "reliability_mean"
#: Standard deviation over halvings.
RELIABILITY_STD_PER_BIN = "splithalf_r_std"
RELIABILITY_STD = "reliability_std"
#: What measures and stores them, for messages.
MEASURING_COMMAND = "mvkit fetch reliability FILE"
#: Where the provenance of a file says how its reliabilities were measured.
PROVENANCE_KEY = "reliabilities"


@dataclass(frozen=True, eq=False)
class StoredReliabilities:
    """Reliabilities as they go into a file.

    Attributes
    ----------
    mean, std
        float64 (n_bins, n_units), or (n_units,) without a time axis.
    record
        How they were measured; kept in the file's provenance.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    record: Mapping[str, object]


def reliability_names(contents: NeuralFileContents) -> tuple[str, str]:
    """Return the names of mean and standard deviation in such a file."""
    if contents.time_s is None:
        return RELIABILITY, RELIABILITY_STD
    return RELIABILITY_PER_BIN, RELIABILITY_STD_PER_BIN


def reliabilities_present(contents: NeuralFileContents) -> tuple[str, ...]:
    """Return those of the two that the file has already."""
    have = {*contents.unit_columns, *contents.reliabilities}
    return tuple(name for name in reliability_names(contents) if name in have)


def copy_with_reliabilities(
    source: Path, target: Path, contents: NeuralFileContents, values: StoredReliabilities
) -> None:
    """Write a copy of a neural file that holds these reliabilities, in place of any it had.

    The copy is made beside ``target``, flushed to disk, and renamed.

    Parameters
    ----------
    source
        Neural file; it may be ``target`` itself.
    target
        File to create or replace.
    contents
        Of ``source``.
    values
        What to store.

    Raises
    ------
    DataError
        If the copy cannot be written.
    """
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        try:
            _add(temporary, contents, values)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{target}: not written ({reason}); is the disk full?") from error
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{target}: not written: {source} has no netCDF-4 dimensions 'units' and time ({error}); "
                "write it with mvkit.neural.write_neural_file or xarray"
            ) from error


def _add(path: Path, contents: NeuralFileContents, values: StoredReliabilities) -> None:
    import h5netcdf
    import h5py

    names = reliability_names(contents)
    dims = (layout.UNITS,) if contents.time_s is None else (layout.TIME, layout.UNITS)
    guard = GuardedFile(path, is_new=False)
    try:
        with h5py.File(guard, "r+") as file:
            for name in names:
                _remove(file, name)
        guard.raise_kept()
        # Opened anew, since only newer versions of h5netcdf take a file that h5py has open.
        with h5netcdf.File(guard, "r+") as netcdf:
            for name, column in zip(names, (values.mean, values.std), strict=True):
                netcdf.create_variable(name, dims, dtype=np.dtype(np.float64), data=column)
            attributes = netcdf.variables[layout.RESPONSES].attrs
            # xarray may have listed some elsewhere; the order is kept, for columns are read in it.
            listed = [*contents.unit_columns, *contents.reliabilities, *names]
            attributes["coordinates"] = " ".join(dict.fromkeys(listed))
            provenance = {**contents.provenance, PROVENANCE_KEY: dict(values.record)}
            netcdf.attrs["provenance"] = json.dumps(provenance, default=str)
    finally:
        guard.close()
        guard.raise_kept()


def _remove(file: Any, name: str) -> None:
    """Delete a variable, and first its ties to dimensions, which would else point to nothing."""
    if name not in file:
        return
    for axis in file[name].dims:
        for scale in list(axis.values()):
            axis.detach_scale(scale)
    del file[name]
