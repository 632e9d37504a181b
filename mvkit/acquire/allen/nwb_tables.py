"""Tables of an NWB file (hdmf's DynamicTable) as NumPy arrays, read with h5py alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import look_at

# Spike times of neighbouring units share chunks: keep the last few instead of unpacking them again.
_CHUNK_CACHE_BYTES = 16 << 20
#: What h5py raises for files that are damaged or laid out otherwise.
_FAILURES = (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError)


@contextmanager
def opening(path: Path) -> Iterator[Any]:
    """Open an NWB file for reading; whatever fails inside becomes a DataError that names it.

    Yields
    ------
    h5py.File
    """
    import h5py

    if problem := look_at(path).problem:
        raise DataError(f"{path}: {problem}")
    try:
        with h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES) as file:
            yield file
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except _FAILURES as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable session file ({reason})") from error


def group(file: Any, name: str) -> Any:
    """Return a group of the file.

    Raises
    ------
    DataError
        If there is none.
    """
    found = file.get(name)
    if found is None:
        raise DataError(f"it has no '{name}'")
    return found


def numbers(table: Any, name: str) -> NDArray[np.float64]:
    """Return a column as float64 (n_rows,); text that holds no number is NaN.

    Raises
    ------
    DataError
        If the table has no such column.
    """
    column = group(table, name)
    if column.dtype.kind in "iufb":
        return np.asarray(column[...], dtype=np.float64)
    return np.array([_number(value) for value in texts(table, name)], dtype=np.float64)


def whole_numbers(table: Any, name: str) -> NDArray[np.int64]:
    """Return a column of integers as int64 (n_rows,).

    Raises
    ------
    DataError
        If the table has no such column, or it holds other values.
    """
    column = group(table, name)
    if column.dtype.kind in "iu":
        return np.asarray(column[...], dtype=np.int64)
    values = numbers(table, name)
    if not np.array_equal(values, np.round(values)):
        raise DataError(f"'{table.name}/{name}' holds values that are not whole numbers")
    return values.astype(np.int64)


def texts(table: Any, name: str) -> NDArray[np.str_]:
    """Return a column of text (n_rows,).

    Raises
    ------
    DataError
        If the table has no such column.
    """
    column = group(table, name)
    values = column.asstr()[...] if column.dtype.kind in "OS" else column[...]
    return np.array([str(value) for value in values], dtype=np.str_)


def truths(table: Any, name: str) -> NDArray[np.bool_]:
    """Return a column of truth values (n_rows,), which some writers store as text.

    Raises
    ------
    DataError
        If the table has no such column.
    """
    column = group(table, name)
    if column.dtype.kind in "biu":
        return np.asarray(column[...], dtype=np.bool_)
    return np.array([text.lower() in ("true", "1") for text in texts(table, name)], dtype=np.bool_)


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


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
