"""NWB files read with h5py alone: tables (hdmf's DynamicTable), images, and the order of presentations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import check_self_contained, inspect_file, open_hdf5

TEMPLATES = "stimulus/templates"
# Raw recordings, often linked from other files.
_RAW = "acquisition"
#: Frame of the grey screen between images.
GREY = -1
# Spike times of neighbouring units share chunks: the last few stay unpacked.
_CHUNK_CACHE_BYTES = 16 << 20
#: Errors that h5py raises for files that are damaged or laid out otherwise.
_FAILURES = (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError)


@contextmanager
def open_nwb(path: Path) -> Iterator[Any]:
    """Open an NWB file for reading; whatever fails inside becomes a DataError that names it.

    Yields
    ------
    h5py.File
    """
    if problem := inspect_file(path).problem:
        raise DataError(f"{path}: {problem}")
    try:
        opened = open_hdf5(path, rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except OSError as error:
        raise DataError(f"{path}: not a readable session file ({error})") from error
    try:
        with opened as file:
            check_self_contained(file, apart_from=_RAW)
            yield file
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except _FAILURES as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable session file ({reason})") from error


def group(file: Any, name: str) -> Any:
    """Return a group or dataset of the file; DataError if there is none."""
    node = file.get(name)
    if node is None:
        raise DataError(f"it has no '{name}'")
    return node


def text(file: Any, name: str) -> str:
    """Return a text, the first of several, or "" of none; DataError if the file has no such dataset."""
    value = group(file, name)[()]
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    return decode(value)


def decode(value: object) -> str:
    """Return a value as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def numbers(table: Any, name: str) -> NDArray[np.float64]:
    """Return a column as float64 (n_rows,), NaN for text that is no number; DataError if there is none."""
    column = group(table, name)
    if column.dtype.kind in "iufb":
        return np.asarray(column[...], dtype=np.float64)
    return np.array([_number(value) for value in texts(table, name)], dtype=np.float64)


def whole_numbers(table: Any, name: str) -> NDArray[np.int64]:
    """Return a column as int64 (n_rows,); DataError if there is none, or it holds other values."""
    column = group(table, name)
    if column.dtype.kind in "iu":
        return np.asarray(column[...], dtype=np.int64)
    values = numbers(table, name)
    if not np.array_equal(values, np.round(values)):
        raise DataError(f"'{table.name}/{name}' holds values that are not whole numbers")
    return values.astype(np.int64)


def texts(table: Any, name: str) -> NDArray[np.str_]:
    """Return a column of text (n_rows,); DataError if there is none."""
    column = group(table, name)
    values = column.asstr()[...] if column.dtype.kind in "OS" else column[...]
    return np.array([str(value) for value in values], dtype=np.str_)


def truths(table: Any, name: str) -> NDArray[np.bool_]:
    """Return a column of truth values (n_rows,), which some writers store as text; DataError if none."""
    column = group(table, name)
    if column.dtype.kind in "biu":
        return np.asarray(column[...], dtype=np.bool_)
    return np.array([value.lower() in ("true", "1") for value in texts(table, name)], dtype=np.bool_)


def ragged_ends(table: Any, name: str) -> NDArray[np.int64]:
    """Return where each row's part of a ragged column ends, int64 (n_rows,).

    Raises
    ------
    DataError
        If the ends do not ascend, or go beyond the values.
    """
    ends = whole_numbers(table, f"{name}_index")
    length = group(table, name).shape[0]
    if len(ends) and (bool((np.diff(ends) < 0).any()) or int(ends[0]) < 0 or int(ends[-1]) > length):
        raise DataError(
            f"'{table.name}/{name}_index' does not fit its {length} values: the file is cut short?"
        )
    return ends


def stored_images(file: Any, stimulus: str, frame_ids: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Return the images of a stimulus, uint8 (n_frames, height, width); None if the file has none.

    The Allen Institute's calcium files hold them, as a series named after the stimulus
    (``natural_scenes_image_stack``) whose rows are frames; its Neuropixels files do not, others' may.

    Parameters
    ----------
    file
        Open HDF5 file.
    stimulus
        Name of the stimulus.
    frame_ids
        int64 (n_frames,), ascending.
    """
    templates = file.get(TEMPLATES, {})
    for name in templates:
        data = templates[name].get("data") if name.startswith(stimulus) else None
        if data is not None and data.ndim == 3 and data.dtype == np.uint8 and frame_ids[-1] < len(data):
            return np.asarray(data[frame_ids], dtype=np.uint8)
    return None


@dataclass(frozen=True, eq=False)
class Presentations:
    """Valid presentations of a stimulus in one session, in order of time.

    Attributes
    ----------
    onset
        (n_presentations,), ascending: float64 seconds of the session's clock, or int64 samples.
    frame_ids
        int64 (n_frames,), ascending: images that were shown.
    frame_index
        int64 (n_presentations,): index into ``frame_ids``.
    trial_index
        int64 (n_presentations,): how many presentations of that image came before.
    """

    onset: NDArray[Any]
    frame_ids: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    trial_index: NDArray[np.int64]

    @property
    def n_trials(self) -> int:
        """Largest number of presentations of an image."""
        return int(self.trial_index.max()) + 1

    @property
    def present(self) -> NDArray[np.bool_]:
        """Bool (n_trials, n_frames): False where an image was shown less often than others."""
        present = np.zeros((self.n_trials, len(self.frame_ids)), dtype=np.bool_)
        present[self.trial_index, self.frame_index] = True
        return present


def order_presentations(
    start: NDArray[Any], frames: NDArray[np.float64], masked: NDArray[np.bool_]
) -> Presentations:
    """Number the presentations of every image in the order of time.

    Parameters
    ----------
    start
        (n,), onsets in any order.
    frames
        float64 (n,), image shown; negative (grey) and NaN ones are left out.
    masked
        bool (n,), presentations that are not valid and count as never made.

    Raises
    ------
    DataError
        If a frame is not a whole number, or nothing valid remains.
    """
    valid = ~masked & (frames > GREY)
    if not valid.any():
        raise DataError("no valid presentation of an image")
    order = np.flatnonzero(valid)[np.argsort(start[valid], kind="stable")]
    shown = frames[order].astype(np.int64)
    if not np.array_equal(shown, frames[order]):
        raise DataError("frames are not whole numbers")
    frame_ids, frame_index = np.unique(shown, return_inverse=True)
    # In a stable order by image, the position after the image's first presentation is the trial.
    by_image = np.argsort(frame_index, kind="stable")
    counts = np.bincount(frame_index)
    trial_index = np.empty(len(shown), dtype=np.int64)
    trial_index[by_image] = np.arange(len(shown)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Presentations(start[order], frame_ids, frame_index.astype(np.int64), trial_index)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")
