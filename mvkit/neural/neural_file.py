"""The neural file (HDF5, netCDF-4): contents, writing, reading."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

import mvkit
from mvkit.errors import DataError
from mvkit.files import (
    append_checksum,
    check_checksum,
    check_self_contained,
    name_file_in_errors,
    open_hdf5,
    replacing,
)
from mvkit.machine import available_cores
from mvkit.neural.dataset import (
    Recording,
    area_sort_key,
    as_text,
    check_field_of_view,
    check_frames,
    concatenate_column,
    first_values,
    plain_array,
    whole_numbers,
)
from mvkit.neural.netcdf import Packing, Variable, attribute_text, dimension_names, has_values, seconds
from mvkit.paths import expand

FORMAT_NAME = "mvkit-neural"
FORMAT_VERSION = 1
TRIALS = "trials"
FRAMES = "frame_id"
TIME = "time_relative_to_stimulus_onset"
UNITS = "units"
HEIGHT, WIDTH = "y", "x"
RESPONSES = "responses"
STIMULI = "stimuli"
#: Attributes of the stimuli: frames per second of a movie, and visual angle of their width.
FRAME_RATE, FIELD_OF_VIEW = "frame_rate_hz", "field_of_view_deg"

#: Names that no column of the units may have.
RESERVED_NAMES = frozenset({TRIALS, FRAMES, TIME, UNITS, HEIGHT, WIDTH, RESPONSES, STIMULI})

#: Columns of unit, animal and area: whole numbers, whole numbers, text.
ID_COLUMNS = ("unit_id", "specimen_id", "visual_area")

#: Further columns that mvkit computes with.
_NUMBER_COLUMNS = ("n_trials", "reliability_mean", "reliability_std", "run_pval_ns", "p_run_mod_ns")
_WRITTEN_COLUMNS = (*ID_COLUMNS, "n_trials")
TIME_RESOLVED = "time_resolved"
AVERAGED = "averaged"

#: Stored value of a missing trial, and the largest count that can be stored.
MISSING_COUNT = 255
LARGEST_COUNT = 254

#: Spikes per second for one spike in a bin of 10 ms.
COUNT_SCALE = np.float32(100.0)
_DECODED_COUNTS = np.where(np.arange(256) == MISSING_COUNT, np.nan, np.arange(256) * COUNT_SCALE).astype("f4")
CHUNK = {TRIALS: 10, TIME: 5, UNITS: 128}
GZIP_LEVEL = 4
_MOST_THREADS = 4

#: Chunks that may wait for a thread, or for their turn to be written.
MOST_WAITING = 2 * _MOST_THREADS
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_PLAIN = Packing()
Offset = tuple[int, ...]


@dataclass(frozen=True)
class NeuralFileContents:
    """Everything in a neural file but the responses, which are streamed.

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
        Name -> column (n_units,), in source order: ``unit_id``,
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
        Source of the numbers; must be serialisable as JSON.
    chunks
        HDF5 chunk of the responses; None for the usual one.
    frame_rate_hz
        Frames per second of a movie, whose frames the images are, in the order of time; None: still images.
    field_of_view_deg
        Degrees of visual angle that the width of an image spans; None: not known.
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
    frame_rate_hz: float | None = None
    field_of_view_deg: float | None = None

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


@dataclass(frozen=True)
class OpenNeuralFile:
    """A neural file that is open for reading.

    Attributes
    ----------
    path
        The file.
    contents
        Everything but the responses.
    stored
        The ``responses`` as stored, axes as in ``contents.dims``; index it and pass the result
        to :meth:`decode`.
    packing
        How stored responses become measured ones.
    """

    path: Path
    contents: NeuralFileContents
    stored: Any
    packing: Packing = _PLAIN

    def read(self, *selection: slice | NDArray[Any] | int) -> NDArray[Any]:
        """Return a decoded part of the responses; axes as in ``contents.dims``.

        Parameters
        ----------
        *selection
            One index per leading axis, as h5py takes them (numbers, slices, or one array of shape (n,)); none
            reads all.

        Returns
        -------
        NDArray
            float32 (from counts) or as :meth:`decode` gives it, of the shape that was selected; NaN =
            missing.

        Raises
        ------
        DataError
            If they are damaged.
        """
        try:
            return self.decode(self.stored[selection if selection else ...])
        except OSError as error:
            raise DataError(f"{self.path}: damaged neural file: {_first_line(error)}") from error

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the measured values of any part of ``stored``, in its shape; NaN = missing.

        Counts of mvkit become float32, other packed numbers and integers float64; floats keep
        their type.
        """
        if self.contents.holds_counts:
            return decode(stored)
        values = self.packing.decode(stored)
        if values.dtype.kind == "f" and values.dtype.itemsize in (4, 8):
            return values
        return values.astype(np.float32 if values.dtype == np.float16 else np.float64)


def write_neural_file(  # noqa: PLR0913
    path: str | Path,
    recordings: Sequence[Recording],
    *,
    stimuli: ArrayLike,
    units_of_measure: str,
    name: str | None = None,
    source: str | Mapping[str, object] = "",
    frame_ids: ArrayLike | None = None,
    frame_rate_hz: float | None = None,
    field_of_view_deg: float | None = None,
) -> Path:
    """Write recordings to a neural file that ``mvkit score --dataset PATH`` reads.

    Everything is checked before the file appears, and it appears whole or not
    at all. Values come back exactly as float32; values that float32 cannot
    hold are stored as float64. NaN marks a missing presentation. Recordings
    may differ in their number of trials; the file pads the shorter ones and
    reading takes the padding off again.

    Parameters
    ----------
    path
        File to write, for example ``my_recordings.h5``; replaced if it exists.
    recordings
        One per area and specimen, from :meth:`Recording.from_arrays`. Further
        columns may differ between recordings; missing entries become NaN or
        "". With a column ``reliability_mean`` (split-half reliability of each
        unit) the default selection applies its thresholds on opening;
        ``mvkit fetch reliability FILE`` measures it afterwards.
    stimuli
        uint8 (n_images, height, width), grey, in the order of the responses.
    units_of_measure
        Of the values, for example ``"spikes/s"`` or ``"dF/F"``.
    name
        Name of the dataset; default: the file's name without ending.
    source
        Source of the values, text or a mapping; stored as provenance.
    frame_ids
        Whole numbers (n_images,), labels of the images; default 0, 1, ...
    frame_rate_hz
        Frames per second of a movie, whose frames the images are, in the order of time; default: images.
    field_of_view_deg
        Degrees of visual angle that the width of an image spans, for filters by visual acuity.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        Naming the recording and the field that is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from mvkit.neural import Recording, write_neural_file
    >>> values = np.random.default_rng(0).poisson(5.0, size=(50, 118, 7))
    >>> mouse = Recording.from_arrays(values, unit_ids=range(7), area="VISp", specimen=1)
    >>> images = np.zeros((118, 64, 64), dtype=np.uint8)
    >>> path = write_neural_file(
    ...     "mine.h5", [mouse], stimuli=images, units_of_measure="spikes/s"
    ... )  # doctest: +SKIP
    """
    target = expand(path)
    contents, ordered = contents_of_recordings(
        recordings,
        stimuli=stimuli,
        units_of_measure=units_of_measure,
        name=target.stem if name is None else name,
        source=source,
        frame_ids=frame_ids,
        frame_rate_hz=frame_rate_hz,
        field_of_view_deg=field_of_view_deg,
    )
    with replacing(target) as temporary, create_neural_file(temporary, contents) as stored:
        for units, values in unit_blocks(contents, ordered):
            stored[:, :, units] = values
    return target


def contents_of_recordings(
    recordings: Sequence[Recording],
    *,
    stimuli: ArrayLike,
    units_of_measure: str,
    name: str,
    source: str | Mapping[str, object] = "",
    frame_ids: ArrayLike | None = None,
    frame_rate_hz: float | None = None,
    field_of_view_deg: float | None = None,
) -> tuple[NeuralFileContents, list[Recording]]:
    """Check recordings; return everything of a neural file but the responses, and the recordings in order.

    Parameters and errors are those of :func:`write_neural_file`.
    """
    images = _check_stimuli(stimuli)
    if not recordings:
        raise DataError("no recordings to write")
    units_of_measure = as_text(units_of_measure, "units_of_measure")
    if not units_of_measure.strip():
        raise DataError("units_of_measure is empty; name what the values are, for example 'spikes/s'")
    for recording in recordings:
        _check_recording(recording, len(images))
    ordered = sorted(recordings, key=lambda rec: (area_sort_key(rec.area), rec.specimen))
    _check_unique(ordered)
    wide = any(recording.responses.dtype == np.float64 for recording in ordered)
    contents = NeuralFileContents(
        dataset=as_text(name, "name"),
        stimuli=images,
        trials=np.arange(max(recording.n_trials for recording in ordered), dtype=np.int64),
        frame_ids=_check_frame_ids(frame_ids, len(images)),
        time_s=None,
        unit_columns=_unit_columns(ordered),
        units_of_measure=units_of_measure,
        response_dtype=np.dtype(np.float64 if wide else np.float32),
        provenance={
            **(source if isinstance(source, Mapping) else {"source": source}),
            "written_by": f"mvkit {mvkit.__version__}",
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        frame_rate_hz=frame_rate_hz,
        field_of_view_deg=field_of_view_deg,
    )
    return contents, ordered


def _check_stimuli(stimuli: ArrayLike) -> NDArray[np.uint8]:
    images = plain_array(stimuli, "stimuli")
    if images.dtype.kind == "f" and np.ma.is_masked(stimuli):
        raise DataError("stimuli have masked pixels; fill them, for every image was shown whole")
    if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape:
        raise DataError(
            f"stimuli must be uint8 (n_images, height, width), grey, not {images.dtype} {images.shape}"
        )
    return images


def _check_frame_ids(frame_ids: ArrayLike | None, n_images: int) -> NDArray[np.int64]:
    if frame_ids is None:
        return np.arange(n_images, dtype=np.int64)
    ids = whole_numbers(frame_ids, "frame_ids")
    if ids.shape != (n_images,) or len(np.unique(ids)) != n_images:
        raise DataError(f"frame_ids must be {n_images} different whole numbers, one per stimulus")
    return ids


def _check_recording(recording: Recording, n_images: int) -> None:
    label = recording.label
    if not recording.area.strip():
        raise DataError(f"{label}: area is empty")
    if 0 in recording.responses.shape:
        raise DataError(f"{label}: values are empty: shape {recording.responses.shape}")
    if recording.n_images != n_images:
        raise DataError(f"{label}: values have {recording.n_images} images (second axis), stimuli {n_images}")
    if np.isinf(recording.responses).any():
        raise DataError(f"{label}: values hold infinity; mark missing presentations with NaN")
    silent = np.isnan(recording.responses).all(axis=(0, 1))
    if silent.any():
        raise DataError(
            f"{label}: values of unit {first_values(recording.unit_ids[silent])} are all NaN; leave it out"
        )
    for name, column in recording.units.items():
        if name in _WRITTEN_COLUMNS:
            raise DataError(f"{label}: column '{name}' is written by mvkit itself; choose another name")
        if column.dtype.kind not in "fiubUO":
            raise DataError(f"{label}: column '{name}' has type {column.dtype}; use numbers or text")


def _check_unique(ordered: Sequence[Recording]) -> None:
    seen: set[tuple[str, int]] = set()
    for recording in ordered:
        if (recording.area, recording.specimen) in seen:
            raise DataError(f"{recording.label}: given twice; join the units of one specimen and area")
        seen.add((recording.area, recording.specimen))


def _unit_columns(ordered: Sequence[Recording]) -> dict[str, NDArray[np.generic]]:
    counts = [recording.n_units for recording in ordered]
    columns: dict[str, NDArray[np.generic]] = {
        "unit_id": np.concatenate([recording.unit_ids for recording in ordered]),
        "specimen_id": np.repeat(np.array([rec.specimen for rec in ordered], dtype=np.int64), counts),
        "visual_area": np.repeat(np.array([rec.area for rec in ordered], dtype=object), counts),
        "n_trials": np.repeat(np.array([rec.n_trials for rec in ordered], dtype=np.int64), counts),
    }
    for name in dict.fromkeys(name for recording in ordered for name in recording.units):
        columns[name] = concatenate_column(ordered, name)
    return columns


def unit_blocks(
    contents: NeuralFileContents, ordered: Sequence[Recording]
) -> Iterator[tuple[slice, NDArray[np.floating]]]:
    """Yield (units, values (n_trials, n_images, units)), a column of the file's chunks at a time."""
    starts = np.cumsum([0, *(recording.n_units for recording in ordered)]).tolist()
    width = chunk_shape(contents)[-1]
    for first in range(0, contents.n_units, width):
        last = min(first + width, contents.n_units)
        values = np.full((*contents.shape[:2], last - first), np.nan, dtype=contents.response_dtype)
        for recording, start in zip(ordered, starts, strict=False):
            begin, end = max(first, start), min(last, start + recording.n_units)
            if begin < end:
                part = recording.responses[:, :, begin - start : end - start]
                values[: recording.n_trials, :, begin - first : end - first] = part
        yield slice(first, last), values


@contextmanager
def create_neural_file(path: Path, contents: NeuralFileContents) -> Iterator[Any]:
    """Create a neural file and yield its responses for writing, piece by piece.

    The file is not written atomically: wrap with :func:`mvkit.files.replacing`.

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

    check_contents(contents)
    with GuardedFile(path) as guard:
        _create_empty(guard, contents)
        guard.raise_first_error()
        # Dimensions and attributes were laid out through h5netcdf; the responses are
        # filled through h5py, which alone can write chunks that are compressed already.
        with h5py.File(guard, "r+") as file:
            guard.raises_at_once = True
            try:
                with compression_pool() as pool:
                    ChunkWriter(file[STIMULI], pool).write(contents.stimuli, (0, 0, 0))
                yield file[RESPONSES]
            finally:
                guard.raises_at_once = False


def check_contents(contents: NeuralFileContents) -> None:
    """Raise :class:`DataError` when a neural file cannot hold these contents.

    Sizes must agree, no dimension may be empty, and columns need plain names,
    storable text and one entry per unit.
    """
    if 0 in contents.shape:
        raise DataError(f"{contents.dataset}: a dimension of the responses is empty: shape {contents.shape}")
    if contents.stimuli.dtype != np.uint8 or contents.stimuli.ndim != 3:
        raise DataError(
            f"{contents.dataset}: stimuli must be uint8 (images, height, width),"
            f" not {contents.stimuli.dtype} {contents.stimuli.shape}"
        )
    if len(contents.stimuli) != len(contents.frame_ids):
        raise DataError(
            f"{contents.dataset}: {len(contents.stimuli)} stimuli but responses to {len(contents.frame_ids)}"
        )
    check_frames(contents.frame_rate_hz, contents.frame_ids, contents.dataset)
    check_field_of_view(contents.field_of_view_deg, contents.dataset)
    if contents.response_dtype not in (np.dtype(np.uint8), np.dtype("f4"), np.dtype("f8")):
        raise DataError(
            f"{contents.dataset}: responses of type {contents.response_dtype} cannot be stored;"
            " use uint8 counts, float32 or float64"
        )
    for name, column in {**contents.unit_columns, **contents.reliabilities}.items():
        if _PLAIN_NAME.fullmatch(name) is None or name in RESERVED_NAMES:
            raise DataError(
                f"{contents.dataset}: unit column {name!r} cannot be stored under that name;"
                " use letters, digits, '_', '.' and '-', and no name that mvkit uses in the file"
            )
        expected = contents.shape[-1:] if name in contents.unit_columns else contents.shape[-2:]
        if column.shape != expected:
            raise DataError(
                f"{contents.dataset}: column '{name}' has shape {column.shape}, expected {expected}"
            )
        if column.dtype.kind in "OU" and not all(_is_storable(str(text)) for text in column):
            raise DataError(f"{contents.dataset}: column '{name}' holds zero bytes or lone surrogates")
    if contents.reliabilities and contents.time_s is None:
        raise DataError(f"{contents.dataset}: reliabilities per time bin need responses with a time axis")


def _is_storable(text: str) -> bool:
    """Whether HDF5 can hold a text of variable length: UTF-8 without zero bytes."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _create_empty(guard: GuardedFile, contents: NeuralFileContents) -> None:
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
        stimuli = file.create_variable(STIMULI, (FRAMES, HEIGHT, WIDTH), dtype="u1", chunks=images, **packed)
        for name in (FRAME_RATE, FIELD_OF_VIEW):
            if (number := getattr(contents, name)) is not None:
                stimuli.attrs[name] = np.float64(number)
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


def chunk_shape(contents: NeuralFileContents) -> tuple[int, ...]:
    """Return the HDF5 chunk of the responses: usually 10 trials, all images, 5 bins, 128 units."""
    return contents.chunks or tuple(
        min(size, CHUNK.get(name, size)) for name, size in zip(contents.dims, contents.shape, strict=True)
    )


def record_provenance(responses: Any, provenance: Mapping[str, object]) -> None:
    """Replace the provenance of a file that is being created.

    Parameters
    ----------
    responses
        The dataset that :func:`create_neural_file` yielded.
    provenance
        Must be serialisable as JSON.
    """
    responses.file.attrs["provenance"] = json.dumps(dict(provenance), default=str)


class GuardedFile(io.FileIO):
    """A file for h5py's file-object driver that survives a full disk, and Ctrl-C while it is written.

    HDF5 cannot close a file whose last writes fail, and the process may crash. This file records the first
    error and keeps further writes in memory, where HDF5 finds them again, so that HDF5 closes it. At the end
    of its ``with`` block the error is raised, or else the checksum appended.

    Parameters
    ----------
    path
        The file.
    is_new
        Whether to create it, or empty an existing one; otherwise it exists and keeps its content.
    """

    def __init__(self, path: Path, *, is_new: bool = True) -> None:
        super().__init__(path, "w+" if is_new else "r+")
        self._error: OSError | KeyboardInterrupt | None = None
        self._unwritten: list[tuple[int, bytes]] = []
        #: Whether a first error is also raised where it happens.
        self.raises_at_once = False

    def __exit__(self, kind: type[BaseException] | None, *others: Any) -> None:
        """Close the file, raise the first error of writing, or append the checksum of a whole file."""
        super().__exit__(kind, *others)
        self.raise_first_error()
        if kind is None:
            append_checksum(Path(self.name))

    def raise_first_error(self) -> None:
        """Raise the first error of writing, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all of ``data`` at the current position; after an error, to memory."""
        begin, whole = self.tell(), memoryview(data).cast("B")
        view = whole
        try:
            while len(view) and self._error is None:
                view = view[super().write(view) or 0 :]
        except (OSError, KeyboardInterrupt) as error:
            self._record(error)
        finally:
            if self._error is not None:
                self._unwritten.append((begin, bytes(whole)))
        return len(whole)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current position, with zeros behind the end; see :meth:`write`."""
        begin, view = self.tell(), memoryview(buffer).cast("B")
        n_read = super().readinto(view) or 0
        view[n_read:] = bytes(len(view) - n_read)
        for at, data in self._unwritten:
            first, last = max(begin, at), min(begin + len(view), at + len(data))
            if first < last:
                view[first - begin : last - begin] = data[first - at : last - at]
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length; after an error, nothing."""
        length = self.tell() if size is None else size
        if self._error is None:
            try:
                super().truncate(length)
            except (OSError, KeyboardInterrupt) as error:
                self._record(error)
        return length

    def _record(self, error: OSError | KeyboardInterrupt) -> None:
        self._error = OSError(error.errno, error.strerror, self.name) if isinstance(error, OSError) else error
        if self.raises_at_once:
            raise self._error


class ChunkWriter:
    """Fills a chunked dataset that was made with shuffle and gzip.

    Parameters
    ----------
    dataset
        h5py dataset.
    pool
        Threads that compress.
    strategy
        How zlib searches for repetitions; every choice gives the same format.

    Attributes
    ----------
    digests
        sha256 of the values of every chunk written, by the chunk's first index.
    """

    def __init__(
        self, dataset: Any, pool: ThreadPoolExecutor, *, strategy: int = zlib.Z_DEFAULT_STRATEGY
    ) -> None:
        self._dataset = dataset
        self._strategy = strategy
        self._pool = pool
        self.digests: dict[Offset, bytes] = {}

    def write(self, values: NDArray[Any], start: Offset) -> None:
        """Write a block that begins on the chunk grid and ends on it or at the edge.

        Parameters
        ----------
        values
            Block in the dataset's axis order and type; may be a transposed view.
        start
            Index of its first element.
        """
        chunk = self._dataset.chunks
        filler = self._dataset.fillvalue
        waiting: deque[tuple[Offset, Future[tuple[bytes, bytes]]]] = deque()
        for inner in chunk_grid(values.shape, chunk):
            part = values[chunk_slices(inner, values.shape, chunk)]
            job = self._pool.submit(_compress_chunk, part, chunk, filler, self._strategy)
            offset = tuple(first + step for first, step in zip(start, inner, strict=True))
            waiting.append((offset, job))
            if len(waiting) > MOST_WAITING:
                self._store(*waiting.popleft())
        while waiting:
            self._store(*waiting.popleft())

    def _store(self, offset: Offset, job: Future[tuple[bytes, bytes]]) -> None:
        compressed, digest = job.result()
        self._dataset.id.write_direct_chunk(offset, compressed)
        self.digests[offset] = digest


def chunk_grid(shape: Offset, chunk: Offset) -> Iterator[Offset]:
    """Yield the first index of every chunk, last axis fastest."""
    return product(*(range(0, size, step) for size, step in zip(shape, chunk, strict=True)))


def chunk_slices(offset: Offset, shape: Offset, chunk: Offset) -> tuple[slice, ...]:
    """Return the index of the chunk at ``offset``, cut at the edge."""
    return tuple(
        slice(first, min(first + step, size)) for first, size, step in zip(offset, shape, chunk, strict=True)
    )


def compression_pool() -> ThreadPoolExecutor:
    """Return threads to compress with: as many as there are cores, up to four."""
    return ThreadPoolExecutor(min(_MOST_THREADS, available_cores()))


def _compress_chunk(part: NDArray[Any], chunk: Offset, filler: Any, strategy: int) -> tuple[bytes, bytes]:
    """Return one chunk as HDF5's shuffle and gzip filters would store it, and its digest."""
    values = np.ascontiguousarray(part)
    digest = digest_of(values)
    if values.shape != chunk:
        # A chunk at the edge is stored whole.
        whole = np.full(chunk, filler, dtype=values.dtype)
        whole[tuple(slice(size) for size in values.shape)] = values
        values = whole
    data: Any = values.reshape(-1).view(np.uint8)
    if values.itemsize > 1:
        data = np.ascontiguousarray(data.reshape(-1, values.itemsize).T)
    return deflate(data, strategy), digest


def deflate(data: Any, strategy: int) -> bytes:
    """Return what HDF5's gzip filter would store for ``data``."""
    compressor = zlib.compressobj(GZIP_LEVEL, strategy=strategy)
    return compressor.compress(data) + compressor.flush()


def digest_of(values: NDArray[Any]) -> bytes:
    """Return the sha256 of an array's values in C order."""
    data: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return hashlib.sha256(data).digest()


@contextmanager
def open_neural_file(path: Path) -> Iterator[OpenNeuralFile]:
    """Open a neural file, written by mvkit or saved again by another library.

    Attributes and names of dimensions are decoded by :mod:`mvkit.neural.netcdf`.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    OpenNeuralFile
        Everything but the responses, which :meth:`OpenNeuralFile.read` reads while the block lasts.

    Raises
    ------
    DataError
        When the file is missing, is not HDF5, is no neural file, is damaged, or holds
        values that cannot be used; the message names variable and attribute.
    """
    with _opened(path, _open_variables) as opened:
        yield opened


def read_unit_columns(path: Path) -> dict[str, NDArray[Any]]:
    """Read what a neural file says of its units, but no images or responses.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        Name -> column (n_units,), as in :class:`NeuralFileContents`.

    Raises
    ------
    DataError
        As :func:`open_neural_file`.
    """
    with _opened(path, _read_columns) as (columns, _):
        return columns


Opened = TypeVar("Opened")


@contextmanager
def _opened(path: Path, read: Callable[[Path, Any], Opened]) -> Iterator[Opened]:
    """Open and check a neural file, and yield what a function reads of it."""
    if not path.is_file():
        raise DataError(f"{path}: no such neural file")
    check_checksum(path, remedy="fetch or convert it again")
    try:
        file = open_hdf5(path)
    except OSError as error:
        if _starts_with(path, b"CDF"):
            raise DataError(
                f'{path}: netCDF-3, not HDF5; save it with to_netcdf(path, engine="h5netcdf")'
            ) from error
        raise DataError(f"{path}: not a readable HDF5 file ({_first_line(error)})") from error
    with file:
        try:
            _check_format(path, file)
            with name_file_in_errors(path):
                check_self_contained(file)
            opened = read(path, file)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"{path}: damaged neural file: {_first_line(error)}") from error
        yield opened


def _check_format(path: Path, file: Any) -> None:
    named = attribute_text(file, "mvkit_format")
    if named == "mvkit-features":
        raise DataError(f"{path}: a feature file, and this needs recordings (a neural file)")
    if named != FORMAT_NAME:
        raise DataError(
            f"{path}: not an mvkit neural file (root attribute mvkit_format is missing);"
            " make one: mvkit fetch neural --from FILE, or mvkit.NeuralDataset.from_arrays(...).save(FILE)"
        )
    # netCDF writers store numeric attributes as arrays of one element.
    version = int(np.ravel(file.attrs.get("mvkit_format_version", 0))[0])
    if version > FORMAT_VERSION:
        raise DataError(f"{path}: written by a newer mvkit (format {version}); update mvkit")
    for name in (RESPONSES, STIMULI, TRIALS, FRAMES):
        if name not in file or not has_values(file[name]):
            raise DataError(f"{path}: variable '{name}' is missing from the neural file")


def _variable(path: Path, file: Any, name: str) -> Variable:
    return Variable(file[name], f"{path}: variable '{name}'")


def _is_timed(path: Path, file: Any) -> bool:
    """Whether responses have a time axis; checks that they are numbers."""
    responses = _variable(path, file, RESPONSES)
    if not responses.is_number or responses.data.dtype.kind == "b":
        raise DataError(f"{responses.where}: has type {responses.data.dtype}, expected numbers")
    kind = attribute_text(file, "kind")
    is_timed = kind == TIME_RESOLVED
    if kind not in (TIME_RESOLVED, AVERAGED) or (
        responses.dims is not None and (TIME in responses.dims) != is_timed
    ):
        raise ValueError(f"kind is '{kind}', but responses has dimensions {responses.dims}")
    return is_timed


def _read_columns(path: Path, file: Any) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float64]]]:
    """Read the columns of units, and their reliabilities per time bin."""
    is_timed = _is_timed(path, file)
    columns: dict[str, NDArray[Any]] = {}
    reliabilities: dict[str, NDArray[np.float64]] = {}
    for name in _unit_variables(file):
        variable = _variable(path, file, name)
        dims = variable.named_dims
        n_dims = variable.data.ndim if dims is None else len(dims)
        if n_dims == 1:
            columns[name] = _column(variable, name)
        elif n_dims == 2 and is_timed:
            reliabilities[name] = _numbers(variable, TIME, UNITS).astype(np.float64, copy=False)
    return columns, reliabilities


def _open_variables(path: Path, file: Any) -> OpenNeuralFile:
    columns, reliabilities = _read_columns(path, file)
    responses = _variable(path, file, RESPONSES)
    contents = NeuralFileContents(
        dataset=attribute_text(file, "dataset"),
        stimuli=_stimuli(_variable(path, file, STIMULI)),
        trials=_labels(_variable(path, file, TRIALS), TRIALS),
        frame_ids=_labels(_variable(path, file, FRAMES), FRAMES),
        time_s=_times(_variable(path, file, TIME)) if _is_timed(path, file) else None,
        unit_columns=columns,
        reliabilities=reliabilities,
        units_of_measure=_units_of_measure(responses),
        response_dtype=_response_dtype(responses),
        provenance=_json(attribute_text(file, "provenance") or "{}"),
        frame_rate_hz=_number_of(path, file[STIMULI], FRAME_RATE),
        field_of_view_deg=_number_of(path, file[STIMULI], FIELD_OF_VIEW),
    )
    check_frames(contents.frame_rate_hz, contents.frame_ids, str(path))
    check_field_of_view(contents.field_of_view_deg, str(path))
    stored = responses.in_order(*contents.dims)
    if stored.shape != contents.shape:
        raise ValueError(f"responses have shape {stored.shape}, coordinates {contents.shape}")
    return OpenNeuralFile(path=path, contents=contents, stored=stored, packing=responses.packing)


def _number_of(path: Path, variable: Any, attribute: str) -> float | None:
    if attribute not in variable.attrs:
        return None
    # netCDF writers store numeric attributes as arrays of one element.
    value = np.ravel(variable.attrs[attribute])
    if len(value) != 1 or value.dtype.kind not in "iuf":
        raise DataError(f"{path}: attribute '{attribute}' of '{STIMULI}' is {value}, expected a number")
    return float(value[0])


def _unit_variables(file: Any) -> list[str]:
    """Return the names of variables over units: those in "coordinates", then those with that dimension.

    Other libraries may not list the coordinates that they add.
    """
    listed = attribute_text(file[RESPONSES], "coordinates").split()
    names = {name: None for name in listed if name in file or name in ID_COLUMNS}
    for name, data in file.items():
        if name in RESERVED_NAMES or not hasattr(data, "dtype") or not has_values(data):
            names.pop(name, None)
        elif name not in names and "DIMENSION_LIST" in data.attrs:
            dims = dimension_names(data, name) or ()
            if dims[:1] == (UNITS,) or set(dims) == {TIME, UNITS}:
                names[name] = None
    return list(names)


def _column(variable: Variable, name: str) -> NDArray[Any]:
    if name == "visual_area" and not variable.is_text:
        values = variable.read(UNITS)
        if values.dtype.kind != "U":
            raise DataError(f"{variable.where}: holds numbers, expected names of areas as text")
        return values
    if name in ("unit_id", "specimen_id"):
        if variable.is_text:
            raise DataError(f"{variable.where}: holds text, expected whole numbers")
        return _check_whole(variable, variable.read(UNITS))
    return _numbers(variable, UNITS) if name in _NUMBER_COLUMNS else variable.read(UNITS)


def _labels(variable: Variable, dim: str) -> NDArray[np.int64]:
    values = _check_whole(variable, _numbers(variable, dim))
    if np.isnan(values).any():
        raise DataError(f"{variable.where}: {int(np.isnan(values).sum())} labels are missing")
    return values.astype(np.int64, copy=False)


def _times(variable: Variable) -> NDArray[np.float64]:
    if not has_values(variable.data):
        raise DataError(f"{variable.where}: has no bin centres in seconds")
    values = _numbers(variable, TIME).astype(np.float64, copy=False)
    kind = attribute_text(variable.data, "dtype")
    # mvkit writes no "units" (xarray would decode time differences); other writers may.
    for attribute in () if kind.startswith("timedelta64") else ("units", "units_of_measure"):
        if units := attribute_text(variable.data, attribute):
            values = seconds(values, units, attribute, variable.where)
            break
    if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise DataError(f"{variable.where}: bin centres are missing or do not increase")
    return values


def _stimuli(variable: Variable) -> NDArray[np.uint8]:
    values = _numbers(variable, FRAMES, HEIGHT, WIDTH)
    if values.dtype == np.uint8:
        return np.asarray(values, dtype=np.uint8)
    if np.isnan(values).any():
        raise DataError(
            f"{variable.where}: {int(np.isnan(values).sum())} pixels are missing (NaN or _FillValue)"
        )
    pixels = np.rint(values)
    # Packing rounds to a multiple of scale_factor, so that whole numbers come back near themselves.
    tolerance = min(abs(variable.packing.scale) / 2, 0.25) if variable.packing.is_scaled else 0.0
    if (np.abs(values - pixels) > tolerance).any() or (pixels < 0).any() or (pixels > 255).any():
        raise DataError(
            f"{variable.where}: holds other values than grey levels 0 to 255 ({variable.data.dtype})"
        )
    grey: NDArray[np.uint8] = pixels.astype(np.uint8)
    return grey


def _numbers(variable: Variable, *dims: str) -> NDArray[Any]:
    if " since " in attribute_text(variable.data, "units"):
        raise DataError(f"{variable.where}: attribute 'units' makes dates of it, expected numbers")
    values = variable.read(*dims)
    if values.dtype.kind not in "iufb":
        raise DataError(f"{variable.where}: holds text, expected numbers")
    return values


def _check_whole(variable: Variable, values: NDArray[Any]) -> NDArray[Any]:
    """Check that ids are whole numbers, not too large for their type or int64."""
    if values.dtype.kind not in "iuf":
        raise DataError(f"{variable.where}: holds {values.dtype}, expected whole numbers")
    present = values[~np.isnan(values)]
    stored = variable.data.dtype
    if values.dtype.kind == "f":
        limit = 1 << (np.finfo(stored).nmant + 1 if stored.kind == "f" and stored.itemsize < 8 else 53)
        fractions = present[present != np.trunc(present)]
        if fractions.size:
            raise DataError(f"{variable.where}: {fractions[0]!s} is no whole number")
        if present.size and np.abs(present).max() > limit:
            raise DataError(
                f"{variable.where}: {stored} cannot hold every whole number above {limit}, "
                "so ids may have changed; save it as int64"
            )
    if values.dtype.kind == "u" and present.size and int(present.max()) >= 1 << 63:
        raise DataError(f"{variable.where}: {present.max()} is too large for int64")
    return values


def _units_of_measure(responses: Variable) -> str:
    text = attribute_text(responses.data, "units_of_measure")
    if not text:
        raise DataError(
            f"{responses.where}: attribute 'units_of_measure' is missing; "
            "computing in xarray drops attributes unless keep_attrs=True"
        )
    return text


def _response_dtype(responses: Variable) -> np.dtype[Any]:
    """Return uint8 for counts as mvkit packs them, else the type of the measured values."""
    dtype: np.dtype[Any] = responses.data.dtype.newbyteorder("=")
    packing = responses.packing
    if dtype.kind == "f" and not packing.is_scaled and dtype.itemsize in (4, 8):
        return dtype
    expected = replace(Packing(packing.where), missing=((MISSING_COUNT, 0.0),), scale=float(COUNT_SCALE))
    return dtype if dtype == np.uint8 and packing == expected else np.dtype(np.float64)


def _json(text: str) -> Mapping[str, object]:
    document = json.loads(text)
    return document if isinstance(document, dict) else {"text": document}


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def decode(stored: NDArray[Any]) -> NDArray[Any]:
    """Turn responses as mvkit stores them into measured ones.

    Parameters
    ----------
    stored
        Any part of ``responses`` as stored.

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
