"""Reliabilities of units in a neural file: their columns, storing them, and the report on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import replacing
from mvkit.neural import neural_file as layout
from mvkit.neural.dataset import area_sort_key
from mvkit.neural.neural_file import GuardedFile, NeuralFileContents

#: Mean over split halves of the trials, per time bin and unit, or per unit where there is no time axis.
RELIABILITY_PER_BIN = "splithalf_r_mean"
RELIABILITY = "reliability_mean"

#: Standard deviation over split halves.
RELIABILITY_STD_PER_BIN = "splithalf_r_std"
RELIABILITY_STD = "reliability_std"

#: The command that measures and stores them, for messages.
MEASURING_COMMAND = "mvkit fetch reliability FILE"

#: Key in the provenance of a file: how its reliabilities were measured.
PROVENANCE_KEY = "reliabilities"

#: Units at or above these are counted: the thresholds of the selections ``paper`` and ``code``.
THRESHOLDS = (0.3, 0.5)


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


@dataclass(frozen=True)
class AreaReliability:
    """Reliabilities of the units of one area; of each unit the one in its best time bin.

    Attributes
    ----------
    area
        Visual area, "" for units without one.
    n_specimens, n_units
        Animals and units.
    n_undefined
        Units without a reliability.
    median
        Over the other units; NaN if there are none.
    at_least
        Threshold -> units at or above it.
    """

    area: str
    n_specimens: int
    n_units: int
    n_undefined: int
    median: float
    at_least: Mapping[float, int]


@dataclass(frozen=True, eq=False)
class ReliabilityReport:
    """Measured reliabilities and the file that has them.

    Attributes
    ----------
    source, target
        File that was measured, and file with the reliabilities (the same unless ``out`` was given).
    dataset
        Name of the dataset.
    n_halves, seed
        Split halves of the trials, and seed of their draws.
    mean, std
        float64 (n_bins, n_units), or (n_units,) without a time axis: over the split halves in which the
        reliability is defined; NaN where there is none.
    reasons
        Text (n_units,): why a unit has no reliability (in any time bin), else "".
    areas
        One entry per area.
    replaced
        Names of stored reliabilities that were replaced.
    seconds
        Time taken.
    """

    source: Path
    target: Path
    dataset: str
    n_halves: int
    seed: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    reasons: NDArray[np.str_]
    areas: tuple[AreaReliability, ...]
    replaced: tuple[str, ...]
    seconds: float

    def undefined(self) -> dict[str, int]:
        """Return reason -> number of units without a reliability for it."""
        names, counts = np.unique(self.reasons[self.reasons != ""], return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}

    def to_json(self) -> dict[str, object]:
        """Return plain data, without the reliabilities themselves."""
        return {
            "file": str(self.source),
            "written": str(self.target),
            "dataset": self.dataset,
            "n_halves": self.n_halves,
            "seed": self.seed,
            "per_time_bin": self.mean.ndim == 2,
            "areas": [asdict(area) for area in self.areas],
            "undefined": self.undefined(),
            "replaced": list(self.replaced),
            "seconds": self.seconds,
        }


def reliability_names(contents: NeuralFileContents) -> tuple[str, str]:
    """Return the names of mean and standard deviation in such a file."""
    if contents.time_s is None:
        return RELIABILITY, RELIABILITY_STD
    return RELIABILITY_PER_BIN, RELIABILITY_STD_PER_BIN


def reliabilities_present(contents: NeuralFileContents) -> tuple[str, ...]:
    """Return the names of reliabilities that the file has."""
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
    with GuardedFile(path, is_new=False) as guard:
        with h5py.File(guard, "r+") as file:
            for name in names:
                _remove(file, name)
        guard.raise_first_error()
        # Opened anew, since only newer versions of h5netcdf take a file that h5py has open.
        with h5netcdf.File(guard, "r+") as netcdf:
            for name, column in zip(names, (values.mean, values.std), strict=True):
                netcdf.create_variable(name, dims, dtype=np.dtype(np.float64), data=column)
            attributes = netcdf.variables[layout.RESPONSES].attrs
            # xarray may list some in other places; columns are read in this order.
            listed = [*contents.unit_columns, *contents.reliabilities, *names]
            attributes["coordinates"] = " ".join(dict.fromkeys(listed))
            provenance = {**contents.provenance, PROVENANCE_KEY: dict(values.record)}
            netcdf.attrs["provenance"] = json.dumps(provenance, default=str)


def _remove(file: Any, name: str) -> None:
    """Delete a variable, and first its dimension scales, which would else point to nothing."""
    if name not in file:
        return
    for axis in file[name].dims:
        for scale in list(axis.values()):
            axis.detach_scale(scale)
    del file[name]


def reliability_by_area(
    contents: NeuralFileContents, mean: NDArray[np.float64]
) -> tuple[AreaReliability, ...]:
    """Summarise reliabilities by area, areas in their usual order.

    Parameters
    ----------
    contents
        Of the neural file.
    mean
        float64 (n_bins, n_units) or (n_units,).
    """
    known = np.where(np.isnan(mean), -np.inf, mean)
    best = known if known.ndim == 1 else known.max(axis=0)
    columns = contents.unit_columns
    areas = np.asarray(columns.get("visual_area", np.full(len(best), ""))).astype(str)
    specimens = columns.get("specimen_id", np.zeros(len(best)))
    summaries = []
    for area in sorted(set(areas.tolist()), key=area_sort_key):
        own = areas == area
        values = best[own & np.isfinite(best)]
        animals = specimens[own]
        summaries.append(
            AreaReliability(
                area=area,
                n_specimens=len(np.unique(animals[~np.isnan(animals)])),
                n_units=int(own.sum()),
                n_undefined=int(own.sum()) - len(values),
                median=float(np.median(values)) if len(values) else float("nan"),
                at_least={threshold: int((values >= threshold).sum()) for threshold in THRESHOLDS},
            )
        )
    return tuple(summaries)
