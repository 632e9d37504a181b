"""Variables of netCDF-4 files: attributes of the CF conventions, order of dimensions, text.

A variable's stored numbers are not its values: a library that saves a file may
pack them, mark missing values by a number, or put the dimensions in another
order, and describe that in attributes. Here they are decoded by the CF conventions
(section 8.1, appendix A) and the netCDF User's Guide:

==========================================  =====================================================
attribute                                   meaning
==========================================  =====================================================
``_FillValue``, ``missing_value`` (a list)  stored numbers that are missing: NaN, "" for text
``scale_factor``, ``add_offset``            value = stored number * scale_factor + add_offset
``dtype`` = ``bool``                        truth values
``units`` = "... since ...", ``calendar``   times, as text in ISO 8601
``dtype`` = ``timedelta64...``, ``units``   time differences, in seconds
``_Encoding``                               encoding of characters, UTF-8 without it
==========================================  =====================================================

Other attributes that change values (``valid_min``, ``valid_max``, ``valid_range``, ``_Unsigned``) and
ones that cannot be used are errors that name them. Dimensions are identified
by name (HDF5's dimension scales); a variable without
names has the order that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import check_unpacked_dataset

#: The largest whole number that float64 holds together with all smaller ones.
LARGEST_FLOAT_INTEGER = 1 << 53

#: Attributes by which stored numbers differ from values.
_REFUSED_ATTRIBUTES = ("valid_min", "valid_max", "valid_range", "_Unsigned")
PACKING_ATTRIBUTES = ("_FillValue", "missing_value", "scale_factor", "add_offset", *_REFUSED_ATTRIBUTES)

#: Length of units of time in seconds, as a factor and a divisor, so that 5 ms are exactly 0.005 s.
_TIME_UNITS = {
    "ns": (1, 10**9),
    "us": (1, 10**6),
    "ms": (1, 10**3),
    "s": (1, 1),
    "m": (60, 1),
    "h": (3600, 1),
    "D": (86400, 1),
}
_TIME_WORDS = {
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds", "nsec"), "ns"),
    **dict.fromkeys(("us", "microsecond", "microseconds", "usec"), "us"),
    **dict.fromkeys(("ms", "millisecond", "milliseconds", "msec", "millisec"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "D"),
}
_USUAL_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")

#: How netCDF names the scale of a dimension that has no values.
_NO_VALUES = "This is a netCDF dimension but not a netCDF variable"


class Variable:
    """A variable of a netCDF-4 file.

    Parameters
    ----------
    data
        h5py dataset.
    where
        File and variable, for messages.

    Raises
    ------
    DataError
        If an attribute or a dimension cannot be used.
    """

    def __init__(self, data: Any, where: str) -> None:
        self.data = data
        self.where = where
        self.dims = dimension_names(data, where)
        self.is_text = _is_text(data)
        self.is_number = data.dtype.kind in "iufb"
        if not (self.is_text or self.is_number):
            raise DataError(f"{where}: has type {data.dtype}, expected numbers or text")
        self.packing = Packing(where) if self.is_text else packing_of(data, where)
        if self.is_text:
            for name in ("scale_factor", "add_offset"):
                if name in data.attrs:
                    raise DataError(f"{where}: attribute '{name}' on text cannot be used; remove it")

    @property
    def named_dims(self) -> tuple[str, ...] | None:
        """Names of the dimensions without the one over the characters of a text; None if unknown."""
        return self.dims[:-1] if self.dims is not None and self._holds_characters() else self.dims

    def in_order(self, *dims: str) -> Any:
        """Return the stored numbers, to be indexed, with their axes in this order.

        Raises
        ------
        DataError
            If the variable has other dimensions.
        """
        if self.dims is None:
            if self.data.ndim != len(dims):
                raise DataError(
                    f"{self.where}: has {self.data.ndim} dimensions, expected ({', '.join(dims)})"
                )
            return self.data
        if sorted(self.dims) != sorted(dims):
            raise DataError(
                f"{self.where}: has dimensions ({', '.join(self.dims)}), expected ({', '.join(dims)}); "
                "rename or select them before saving"
            )
        return (
            self.data
            if self.dims == dims
            else TransposedDataset(self.data, [self.dims.index(name) for name in dims])
        )

    def read(self, *dims: str) -> NDArray[Any]:
        """Return all values, axes in this order: numbers (NaN = missing), truth values or text ("")."""
        check_unpacked_dataset(self.data, self.where)
        if self.is_text:
            return self._read_text(dims)
        values = self.packing.decode(self.in_order(*dims)[...])
        units, kind = attribute_text(self.data, "units"), attribute_text(self.data, "dtype")
        if " since " in units:
            return _iso_times(values, units, attribute_text(self.data, "calendar"), self.where)
        if kind.startswith("timedelta64"):
            return seconds(values, units, "units", self.where)
        if kind == "bool" and not np.isnan(values).any():
            return values.astype(bool)
        return values

    def _holds_characters(self) -> bool:
        """Whether texts are rows of single characters, as netCDF stores texts of fixed length."""
        if self.data.dtype != np.dtype("S1") or self.data.ndim < 2:
            return False
        return self.dims is None or "string" in self.dims[-1].lower() or "char" in self.dims[-1].lower()

    def _read_text(self, dims: tuple[str, ...]) -> NDArray[Any]:
        encoding = attribute_text(self.data, "_Encoding") or "utf-8"
        filler = attribute_text(self.data, "_FillValue")
        try:
            if self.data.dtype.kind == "O":
                stored = self.in_order(*dims)[...]
                texts = [
                    item.decode(encoding) if isinstance(item, bytes) else str(item) for item in stored.flat
                ]
            elif self._holds_characters():
                last = "" if self.dims is None else self.dims[-1]
                stored = self.in_order(*dims, last)[...]
                if filler:
                    stored = np.where(stored == filler.encode(encoding), b"", stored)
                rows = stored.reshape(-1, stored.shape[-1])
                texts = [b"".join(row.tolist()).decode(encoding) for row in rows]
                stored, filler = stored[..., 0], ""
            else:
                stored = self.in_order(*dims)[...]
                texts = [item.decode(encoding) for item in stored.ravel().tolist()]
                if _is_padded_with_spaces(self.data):
                    texts = [text.rstrip(" ") for text in texts]
        except LookupError as error:
            raise DataError(
                f"{self.where}: attribute '_Encoding' is '{encoding}', which is unknown"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.where}: text is not {encoding} ({error.reason}); save it as UTF-8"
            ) from error
        if filler:
            texts = ["" if text == filler else text for text in texts]
        return np.array(texts, dtype=str).reshape(stored.shape)


@dataclass(frozen=True)
class Packing:
    """How stored numbers become values.

    Attributes
    ----------
    where
        File and variable, for messages.
    missing
        Stored numbers that mean a missing value, and how far off they may be.
    scale, offset
        value = stored * scale + offset.
    """

    where: str = ""
    missing: tuple[tuple[float, float], ...] = ()
    scale: float = 1.0
    offset: float = 0.0

    @property
    def is_scaled(self) -> bool:
        """Whether values differ from the stored numbers that are not missing."""
        return (self.scale, self.offset) != (1.0, 0.0)

    @property
    def is_plain(self) -> bool:
        """Whether the stored numbers are the values."""
        return not (self.is_scaled or self.missing)

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the values of stored numbers, in the machine's byte order.

        Parameters
        ----------
        stored
            Numbers as stored.

        Returns
        -------
        NDArray
            The type of the stored numbers where nothing is scaled and, among
            integers, nothing is missing; else float64 (float32 stays float32
            unless it is scaled). NaN = missing.

        Raises
        ------
        DataError
            If whole numbers have missing ones among them and are too large for float64.
        """
        values = np.asarray(stored, dtype=stored.dtype.newbyteorder("="))
        if self.is_plain:
            return values
        is_missing = np.zeros(values.shape, dtype=np.bool_)
        for number, tolerance in self.missing:
            is_missing |= (np.abs(values - number) <= tolerance) if tolerance else (values == number)
        if self.is_scaled:
            values = values.astype(np.float64) * self.scale + self.offset
        if not is_missing.any():
            return values
        if values.dtype.kind in "iu":
            if values.dtype.itemsize == 8 and beyond_float(values[~is_missing]):
                raise DataError(
                    f"{self.where}: whole numbers beyond 2**53 with missing ones among them (_FillValue) "
                    "cannot be read; save it without _FillValue, or smaller numbers"
                )
            values = values.astype(np.float64)
        decoded: NDArray[Any] = np.where(is_missing, values.dtype.type(np.nan), values)
        return decoded


class TransposedDataset:
    """A variable whose axes have another order in the file; indexed like an h5py dataset.

    Parameters
    ----------
    data
        h5py dataset.
    axes
        The file's axis of every axis here.
    """

    def __init__(self, data: Any, axes: Sequence[int]) -> None:
        self._data = data
        self._axes = tuple(axes)
        self.dtype = data.dtype
        self.ndim = data.ndim
        self.shape = tuple(data.shape[axis] for axis in axes)
        self.chunks = None if data.chunks is None else tuple(data.chunks[axis] for axis in axes)

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        """Read a part; one index, slice or ascending list per leading axis, or ``...``."""
        if selection is Ellipsis:
            selection = ()
        given = selection if isinstance(selection, tuple) else (selection,)
        indices = [*given, *[slice(None)] * (self.ndim - len(given))]
        in_file: list[Any] = [slice(None)] * self.ndim
        for axis, index in zip(self._axes, indices, strict=True):
            in_file[axis] = index
        part: NDArray[Any] = self._data[tuple(in_file)]
        remaining = [
            axis
            for axis, index in zip(self._axes, indices, strict=True)
            if not isinstance(index, int | np.integer)
        ]
        return part.transpose([sorted(remaining).index(axis) for axis in remaining])


def packing_of(data: Any, where: str) -> Packing:
    """Return how the stored numbers of a dataset become values.

    Parameters
    ----------
    data
        h5py dataset of numbers.
    where
        File and variable, for messages.

    Raises
    ------
    DataError
        Naming the attribute that cannot be used.
    """
    if not any(name in data.attrs for name in PACKING_ATTRIBUTES):
        return Packing(where)
    for name in _REFUSED_ATTRIBUTES:
        if name in data.attrs:
            raise DataError(f"{where}: attribute '{name}' cannot be used; apply it and remove it")
    missing = []
    for name in ("_FillValue", "missing_value"):
        for number in _numbers(data, name, where):
            if not np.isnan(number):
                missing.append(_stored_number(number, data.dtype, name, where))
    packing = {}
    for name, usual in (("scale_factor", 1.0), ("add_offset", 0.0)):
        numbers = _numbers(data, name, where)
        if len(numbers) > 1 or not np.isfinite(numbers).all() or (name == "scale_factor" and 0 in numbers):
            raise DataError(f"{where}: attribute '{name}' is {numbers.tolist()}, expected one number")
        packing[name] = float(numbers[0]) if len(numbers) else usual
    return Packing(
        where=where,
        missing=tuple(dict.fromkeys(missing)),
        scale=packing["scale_factor"],
        offset=packing["add_offset"],
    )


def _numbers(data: Any, name: str, where: str) -> NDArray[Any]:
    """Return the numbers of an attribute; none without it."""
    if name not in data.attrs:
        return np.empty(0)
    numbers = np.asarray(data.attrs[name]).ravel()
    if numbers.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: attribute '{name}' is no number ({str(data.attrs[name])[:40]!r}); remove it"
        )
    return numbers


def _stored_number(number: Any, dtype: np.dtype[Any], name: str, where: str) -> tuple[float, float]:
    """Return a missing value as stored numbers of this type have it, and the tolerance of the comparison."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrowed = dtype.newbyteorder("=").type(number)
        # A number rounded to the attribute's type does not equal the wider stored ones exactly.
        is_rounded = (
            number.dtype.kind == "f" and number.dtype.itemsize < dtype.itemsize and np.isfinite(number)
        )
        return float(narrowed), abs(float(number)) * float(np.finfo(number.dtype).eps) if is_rounded else 0.0
    whole = int(number) if np.isfinite(number) and number == np.trunc(number) else None
    if whole is not None and dtype.kind == "b":
        return whole, 0.0
    limits = None if dtype.kind == "b" else np.iinfo(dtype)
    if whole is None or limits is None or not limits.min <= whole <= limits.max:
        raise DataError(
            f"{where}: attribute '{name}' is {number}, which no {dtype} can be; give it the variable's type"
        )
    return whole, 0.0


def beyond_float(values: NDArray[Any]) -> bool:
    """Whether some whole number is so large that float64 may not hold it."""
    if not values.size:
        return False
    return max(abs(int(values.min())), abs(int(values.max()))) > LARGEST_FLOAT_INTEGER


def dimension_names(data: Any, where: str) -> tuple[str, ...] | None:
    """Return the names of a dataset's dimensions; None if the file has none.

    Raises
    ------
    DataError
        If some of its dimensions have names and others do not.
    """
    if attribute_text(data, "CLASS") == "DIMENSION_SCALE" and data.ndim == 1:
        return (str(data.name).rsplit("/", 1)[-1],)
    if "DIMENSION_LIST" in data.attrs:
        scales = [list(axis.values()) for axis in data.dims]
        names = [str(axis[0].name).rsplit("/", 1)[-1] if axis else "" for axis in scales]
    else:
        return None
    if len(names) != data.ndim or not all(names):
        raise DataError(
            f"{where}: {data.ndim} dimensions are named ({', '.join(names)}); name every one of them"
        )
    return tuple(names)


def attribute_text(owner: Any, name: str) -> str:
    """Return an attribute of a variable or file as text; "" if there is none or it is no text.

    Writers store text of fixed length (h5py gives bytes), of variable length, or an array of one.
    """
    value = owner.attrs.get(name)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value) if isinstance(value, str) else ""


def has_values(data: Any) -> bool:
    """Whether a dataset is a variable, and not only the name and size of a dimension."""
    return not attribute_text(data, "NAME").startswith(_NO_VALUES)


def seconds(values: NDArray[Any], units: str, attribute: str, where: str) -> NDArray[np.float64]:
    """Return times or time differences in seconds.

    Parameters
    ----------
    values
        Numbers.
    units
        Their unit of time, the value of that attribute.
    attribute, where
        For messages.

    Raises
    ------
    DataError
        If the unit is none of time.
    """
    word = units.strip()
    code = _TIME_WORDS.get(word) or _TIME_WORDS.get(word.lower())
    if code is None:
        raise DataError(
            f"{where}: attribute '{attribute}' is '{units}', which cannot be used; store the times in seconds"
        )
    factor, divisor = _TIME_UNITS[code]
    result: NDArray[np.float64] = values.astype(np.float64) * factor / divisor
    return result


def _is_text(data: Any) -> bool:
    import h5py

    return data.dtype.kind == "S" or h5py.check_string_dtype(data.dtype) is not None


def _is_padded_with_spaces(data: Any) -> bool:
    import h5py

    return bool(data.id.get_type().get_strpad() == h5py.h5t.STR_SPACEPAD)


def _iso_times(values: NDArray[Any], units: str, calendar: str, where: str) -> NDArray[Any]:
    """Return times as text in ISO 8601, "" where they are missing."""
    if calendar and calendar.lower() not in _USUAL_CALENDARS:
        raise DataError(f"{where}: attribute 'calendar' is '{calendar}', which cannot be used")
    word, _, start = units.partition(" since ")
    steps = seconds(values, word, "units", where) * 10**6
    try:
        start_time = np.datetime64(start.strip().removesuffix("Z").removesuffix("UTC").strip(), "us")
    except ValueError as error:
        raise DataError(f"{where}: attribute 'units' is '{units}', which cannot be used") from error
    missing = np.isnan(steps)
    times = start_time + np.where(missing, 0, np.rint(steps)).astype("m8[us]")
    texts = [
        "" if is_missing else str(time).removesuffix(".000000")
        for time, is_missing in zip(times.flat, missing.flat, strict=True)
    ]
    return np.array(texts, dtype=str).reshape(values.shape)
