"""Read pandas' part of an inert pickle: indexes, and the columns of text they are made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural import pickle_arrays, pickle_names
from mvkit.neural.pickle_names import is_one_of
from mvkit.neural.pickle_source import PickleSource
from mvkit.neural.pickle_strings import arrow_text, text_column
from mvkit.neural.pickle_values import Record

_LONGEST_RANGE = 10_000_000


def is_multi_index(value: object) -> bool:
    """Tell whether an inert value stands for a pandas MultiIndex."""
    return (
        isinstance(value, Record)
        and is_one_of(value.maker, pickle_names.NEW_INDEX)
        and bool(value.arguments)
        and is_one_of(value.arguments[0], pickle_names.MULTI_INDEX)
    )


def index_values(value: object, source: PickleSource, what: str) -> NDArray[Any]:
    """Read the labels of a plain pandas index.

    Returns
    -------
    NDArray
        One-dimensional: numbers, truth values, or text ("" = missing).
    """
    contents = _contents(value, what)
    if is_one_of(_maker(value), pickle_names.RANGE_INDEX):
        return _range(contents, what)
    if not is_one_of(_maker(value), pickle_names.PLAIN_INDEX):
        raise DataError(f"{what} has labels of class {_maker(value)}, which is not read")
    return column_values(contents.get("data"), source, what)


def level_columns(value: object, source: PickleSource, what: str) -> dict[str, NDArray[Any]]:
    """Read a pandas MultiIndex as columns, in the order of its levels.

    Returns
    -------
    dict
        Name -> one value per row. A missing entry (code -1) is NaN among
        numbers (integers become float64 then) and "" among text.
    """
    contents = _contents(value, what)
    names = _items(contents.get("names"), f"names of {what}")
    levels = _items(contents.get("levels"), f"levels of {what}")
    codes = _items(contents.get("codes", contents.get("labels")), f"codes of {what}")
    if not len(names) == len(levels) == len(codes):
        raise DataError(f"{what} has {len(levels)} levels, {len(codes)} columns and {len(names)} names")
    columns: dict[str, NDArray[Any]] = {}
    for name, level, code in zip(names, levels, codes, strict=True):
        if not isinstance(name, str) or name in columns:
            raise DataError(f"{what} has a level without a name of its own: {str(name)[:40]!r}")
        column = f"level '{name}' of {what}"
        labels = index_values(level, source, column)
        numbers = pickle_arrays.load(pickle_arrays.array_ref(code, column), source, column)
        source.spend(labels.dtype.itemsize * len(numbers), column)
        columns[name] = _taken(labels, numbers, column)
    if len({len(column) for column in columns.values()}) > 1:
        raise DataError(f"{what} has columns of different lengths")
    return columns


def column_values(value: object, source: PickleSource, what: str) -> NDArray[Any]:
    """Read a one-dimensional array: numbers, truth values, or text in any of pandas' forms."""
    if pickle_arrays.is_array(value):
        ref = pickle_arrays.array_ref(value, what)
        if len(ref.shape) != 1:
            raise DataError(f"{what} has {len(ref.shape)} dimensions, expected one")
        if isinstance(ref.data, list):
            return _from_objects(ref.data, source, what)
        values = pickle_arrays.load(ref, source, what)
        if values.dtype.kind in "SU":
            texts = [str(item, "latin-1") if isinstance(item, bytes) else str(item) for item in values]
            return text_column(texts, source, what)
        return values
    if isinstance(value, Record) and _is_string_array(value):
        parts = value.state if isinstance(value.state, tuple) else ()
        array = next((part for part in parts if pickle_arrays.is_array(part)), None)
        return column_values(array, source, what)
    if isinstance(value, Record) and is_one_of(value.maker, pickle_names.ARROW_STRING_ARRAY):
        state = value.state if isinstance(value.state, dict) else {}
        return arrow_text(state.get("_pa_array", state.get("_data")), source, what)
    raise DataError(f"{what} is stored in a form that is not read")


def _is_string_array(value: Record) -> bool:
    if is_one_of(value.maker, pickle_names.STRING_ARRAY_MAKER):
        return bool(value.arguments) and is_one_of(value.arguments[0], pickle_names.STRING_ARRAY)
    return is_one_of(value.maker, pickle_names.STRING_ARRAY)


def _contents(value: object, what: str) -> dict[Any, Any]:
    if isinstance(value, Record) and is_one_of(value.maker, pickle_names.NEW_INDEX):
        contents = value.arguments[1] if len(value.arguments) == 2 else None
        if isinstance(contents, dict):
            return contents
    raise DataError(f"{what} has no readable labels")


def _maker(value: object) -> object:
    return value.arguments[0] if isinstance(value, Record) and value.arguments else None


def _items(value: object, what: str) -> list[Any]:
    if isinstance(value, Record) and is_one_of(value.maker, pickle_names.FROZEN_LIST) and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, list | tuple):
        raise DataError(f"{what} are not a list")
    return list(value)


def _range(contents: dict[Any, Any], what: str) -> NDArray[Any]:
    start, stop, step = (contents.get(key) for key in ("start", "stop", "step"))
    if not (type(start) is int and type(stop) is int and type(step) is int) or step == 0:
        raise DataError(f"{what} has a range that is not made of integers")
    labels = range(start, stop, step)
    if max(abs(start), abs(stop)) > 1 << 62 or (stop - start) // step > _LONGEST_RANGE:
        raise DataError(f"{what} has a range of more than {_LONGEST_RANGE:,} labels")
    return np.array(labels, dtype=np.int64)


def _taken(labels: NDArray[Any], codes: NDArray[Any], what: str) -> NDArray[Any]:
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise DataError(f"{what} has codes that are not integers")
    if len(codes) and not (int(codes.min()) >= -1 and int(codes.max()) < len(labels)):
        raise DataError(f"{what} has codes outside its {len(labels)} labels")
    missing = codes == -1
    filled = labels
    if missing.any():
        is_text = labels.dtype.kind == "U"
        filled = np.append(labels, "") if is_text else np.append(exact_floats(labels, what), np.nan)
    values: NDArray[Any] = filled[codes]  # code -1 is the entry appended
    return values


def exact_floats(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    """Convert numbers to float64, or raise when that would change one."""
    floats = values.astype(np.float64)
    if values.dtype.kind in "iu" and not all(int(a) == int(b) for a, b in zip(floats, values, strict=True)):
        raise DataError(f"{what} has integers too large to be kept beside missing entries")
    return floats


def _from_objects(items: list[Any], source: PickleSource, what: str) -> NDArray[Any]:
    plain = [_plain(item, source, what) for item in items]
    present = [item for item in plain if item is not None]
    if all(isinstance(item, str) for item in present):
        return text_column([item if isinstance(item, str) else "" for item in plain], source, what)
    if not all(isinstance(item, int | float) for item in present):
        raise DataError(f"{what} mixes text and numbers")
    if len(present) == len(plain) and all(type(item) is bool for item in plain):
        return np.array(plain, dtype=bool)
    if len(present) == len(plain) and all(type(item) is int and abs(item) < 1 << 63 for item in plain):
        return np.array(plain, dtype=np.int64)
    try:
        floats = np.array([np.nan if item is None else float(item) for item in plain], dtype=np.float64)
    except OverflowError as error:
        raise DataError(f"{what} has an integer too large to be kept") from error
    if any(isinstance(item, int) and int(value) != item for item, value in zip(plain, floats, strict=True)):
        raise DataError(f"{what} has an integer too large to be kept beside fractions")
    return floats


def _plain(item: object, source: PickleSource, what: str) -> str | int | float | None:
    if isinstance(item, Record) and is_one_of(item.maker, pickle_names.SCALAR):
        item = pickle_arrays.scalar(item, source, what)
    if isinstance(item, Record):
        item = pickle_arrays.as_bytes(item, what)
    if is_one_of(item, pickle_names.MISSING) or (isinstance(item, float) and math.isnan(item)):
        return None
    if isinstance(item, bytes):
        return item.decode("latin-1")
    if not isinstance(item, str | int | float | None):
        raise DataError(f"{what} holds something that is neither text nor a number")
    return item
