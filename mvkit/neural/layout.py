"""The neural file: one HDF5 file per dataset, in netCDF-4 layout.

``xarray.open_dataset(path, engine="h5netcdf")`` opens it. Contents:

=============================  =============================================  =========================
name                           dimensions                                     type
=============================  =============================================  =========================
``responses``                  trials, frame_id, [time], units                uint8 counts, or float
``stimuli``                    frame_id, y, x                                 uint8
``trials``, ``frame_id``       themselves                                     int64
``time_relative_to_...``       itself; bin centres in seconds                 float64
``unit_id`` and further ones   units                                          int64, float64, text, bool
``splithalf_r_mean``, ``_std`` time, units                                    float64
=============================  =============================================  =========================

Counts carry ``scale_factor`` 100 (bins of 10 ms, so spikes/s) and
``_FillValue`` 255 for a missing trial; floats carry NaN for it. Times are
described by ``units_of_measure``, never by ``units``: CF readers turn a
variable whose ``units`` is a time word into time differences.

This is what mvkit writes. What it reads may have been saved again by another
library, with other types, packings and orders of dimensions:
:mod:`mvkit.neural.netcdf`.

Root attributes: ``mvkit_format``, ``mvkit_format_version``, ``dataset``,
``kind`` (``time_resolved`` or ``averaged``) and ``provenance`` (JSON).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.neural.chunks import GZIP_LEVEL, ChunkWriter, compressing
from mvkit.neural.guarded_file import GuardedFile

FORMAT_NAME = "mvkit-neural"
FORMAT_VERSION = 1

TRIALS = "trials"
FRAMES = "frame_id"
TIME = "time_relative_to_stimulus_onset"
UNITS = "units"
HEIGHT, WIDTH = "y", "x"
RESPONSES = "responses"
STIMULI = "stimuli"

#: Names that no column of the units may have.
OWN_NAMES = frozenset({TRIALS, FRAMES, TIME, UNITS, HEIGHT, WIDTH, RESPONSES, STIMULI})

TIME_RESOLVED = "time_resolved"
AVERAGED = "averaged"

#: Stored value of a missing trial, and the largest count that can be stored.
MISSING_COUNT = 255
LARGEST_COUNT = 254
#: Spikes per second for one spike in a bin of 10 ms.
COUNT_SCALE = np.float32(100.0)

CHUNK = {TRIALS: 10, TIME: 5, UNITS: 128}


@dataclass(frozen=True)
class NeuralFileContents:
    """All of a neural file but the responses themselves, which are streamed.

    Attributes
    ----------
    dataset
        Name of the dataset.
    stimuli
        uint8 (n_images, H, W).
    trials
        int64 (n_trials,), trial labels.
    frame_ids
        int64 (n_images,), image labels, in the order of ``stimuli``.
    time_s
        float64 (n_bins,), centres of the time bins in seconds after stimulus
        onset; None for responses that are averaged over time.
    unit_columns
        Columns of length n_units in source order: ``unit_id``,
        ``specimen_id``, ``visual_area``, ``n_trials`` and any others. int64,
        float64 (NaN = missing), text ("" = missing) or bool.
    reliabilities
        ``splithalf_r_mean`` and ``splithalf_r_std``, float64 (n_bins,
        n_units), where the source has them.
    units_of_measure
        "spikes/s", "dF/F" or the user's own text.
    response_dtype
        Stored type of ``responses``: uint8 (spike counts per 10 ms bin),
        float32 or float64.
    provenance
        Where the numbers come from; must be serialisable as JSON.
    chunks
        HDF5 chunk of the responses; None for the usual one.
    """

    dataset: str
    stimuli: NDArray[np.uint8]
    trials: NDArray[np.int64]
    frame_ids: NDArray[np.int64]
    time_s: NDArray[np.float64] | None
    unit_columns: Mapping[str, NDArray[Any]]
    units_of_measure: str
    response_dtype: np.dtype[Any]
    reliabilities: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    chunks: tuple[int, ...] | None = None

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(next(iter(self.unit_columns.values()), ()))

    @property
    def kind(self) -> str:
        """``time_resolved`` or ``averaged``."""
        return AVERAGED if self.time_s is None else TIME_RESOLVED

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimension names of the responses."""
        return (TRIALS, FRAMES, UNITS) if self.time_s is None else (TRIALS, FRAMES, TIME, UNITS)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the responses."""
        times = () if self.time_s is None else (len(self.time_s),)
        return (len(self.trials), len(self.frame_ids), *times, self.n_units)

    @property
    def holds_counts(self) -> bool:
        """Whether the responses are stored as spike counts."""
        return bool(self.response_dtype == np.uint8)


def chunk_shape(contents: NeuralFileContents) -> tuple[int, ...]:
    """Return the HDF5 chunk of the responses: usually 10 trials, all images, 5 bins, 128 units."""
    return contents.chunks or tuple(
        min(size, CHUNK.get(name, size)) for name, size in zip(contents.dims, contents.shape, strict=True)
    )


def decode(stored: NDArray[Any]) -> NDArray[Any]:
    """Turn responses as mvkit stores them into measured ones.

    Parameters
    ----------
    stored
        Any part of ``responses`` as it lies in the file.

    Returns
    -------
    NDArray
        Counts become float32 spikes/s with NaN where a trial is missing;
        floats are returned as they are.
    """
    if stored.dtype != np.uint8:
        return stored
    decoded: NDArray[np.float32] = _DECODED_COUNTS[stored]
    return decoded


_DECODED_COUNTS = np.arange(256, dtype=np.float32) * COUNT_SCALE
_DECODED_COUNTS[MISSING_COUNT] = np.nan
_DECODED_COUNTS.setflags(write=False)


@contextmanager
def creating(path: Path, contents: NeuralFileContents) -> Iterator[Any]:
    """Create a neural file and yield its responses for writing, piece by piece.

    The file is not written atomically: wrap with :func:`mvkit.atomic.replacing`.

    Parameters
    ----------
    path
        File to create; an existing one is replaced.
    contents
        Everything but the responses.

    Yields
    ------
    h5py.Dataset
        ``responses``, of shape ``contents.shape`` and dtype
        ``contents.response_dtype``, to be assigned or filled chunk by chunk.

    Raises
    ------
    DataError
        When sizes disagree, a column name cannot be stored, or a dimension is empty.
    OSError
        When the disk is full or fails; raised at the end at the latest.
    """
    import h5py

    from mvkit.neural.layout_checks import check_contents

    check_contents(contents)
    guard = GuardedFile(path)
    try:
        _create_empty(guard, contents)
        guard.raise_kept()
        # Dimensions and attributes were laid out through h5netcdf; the responses are
        # filled through h5py, which alone can write chunks that are compressed already.
        with h5py.File(guard, "r+") as file:
            guard.is_open_for_data = True
            try:
                with compressing() as pool:
                    ChunkWriter(file[STIMULI], pool).write(contents.stimuli, (0, 0, 0))
                yield file[RESPONSES]
            finally:
                guard.is_open_for_data = False
    finally:
        guard.close()
        guard.raise_kept()


def record_provenance(responses: Any, provenance: Mapping[str, object]) -> None:
    """Replace the provenance of a file that is being created.

    Parameters
    ----------
    responses
        What :func:`creating` yielded.
    provenance
        Must be serialisable as JSON.
    """
    import json

    responses.file.attrs["provenance"] = json.dumps(dict(provenance), default=str)


def _create_empty(guard: GuardedFile, contents: NeuralFileContents) -> None:
    import json

    import h5netcdf

    with h5netcdf.File(guard, "w") as file:
        file.dimensions = {
            **dict(zip(contents.dims, contents.shape, strict=True)),
            HEIGHT: contents.stimuli.shape[1],
            WIDTH: contents.stimuli.shape[2],
        }
        file.attrs.update(
            mvkit_format=FORMAT_NAME,
            mvkit_format_version=np.int64(FORMAT_VERSION),
            dataset=contents.dataset,
            kind=contents.kind,
            provenance=json.dumps(dict(contents.provenance), default=str),
        )
        packed = {"compression": "gzip", "compression_opts": GZIP_LEVEL, "shuffle": True}
        _add(file, TRIALS, (TRIALS,), np.asarray(contents.trials, dtype=np.int64))
        _add(file, FRAMES, (FRAMES,), np.asarray(contents.frame_ids, dtype=np.int64))
        if contents.time_s is not None:
            time = _add(file, TIME, (TIME,), np.asarray(contents.time_s, dtype=np.float64))
            time.attrs["units_of_measure"] = "s"
            time.attrs["long_name"] = "bin centre after stimulus onset"
        for name, column in contents.unit_columns.items():
            _add(file, name, (UNITS,), column)
        for name, values in contents.reliabilities.items():
            _add(file, name, (TIME, UNITS), np.asarray(values, dtype=np.float64))
        images = (min(16, len(contents.stimuli)), *contents.stimuli.shape[1:])
        file.create_variable(STIMULI, (FRAMES, HEIGHT, WIDTH), dtype="u1", chunks=images, **packed)
        missing = np.uint8(MISSING_COUNT) if contents.holds_counts else contents.response_dtype.type(np.nan)
        responses = file.create_variable(
            RESPONSES,
            contents.dims,
            dtype=contents.response_dtype,
            chunks=chunk_shape(contents),
            fillvalue=missing,
            **packed,
        )
        if contents.holds_counts:
            responses.attrs["scale_factor"] = COUNT_SCALE
        responses.attrs["units_of_measure"] = contents.units_of_measure
        responses.attrs["coordinates"] = " ".join([*contents.unit_columns, *contents.reliabilities])


def _add(file: Any, name: str, dims: tuple[str, ...], values: NDArray[Any], **options: Any) -> Any:
    if values.dtype.kind in "OU":
        import h5py

        text = np.array([str(value) for value in values], dtype=object)
        return file.create_variable(name, dims, dtype=h5py.string_dtype(), data=text, **options)
    if values.dtype.kind == "b":
        # netCDF has no truth values; this is the pair that xarray decodes.
        variable = file.create_variable(name, dims, dtype="i1", data=values.astype("i1"), **options)
        variable.attrs["dtype"] = "bool"
        return variable
    return file.create_variable(name, dims, dtype=values.dtype, data=values, **options)
